"""The README of a network that is published: what it is, how it was trained, what it reaches, how it is loaded."""

from __future__ import annotations

from kdbench.engine.described import Described
from kdbench.engine.trained import Trained
from kdbench.utils.text import printable


def model_card(source: Described, net: Trained, given: str) -> str:
    """Return a model card in Markdown, with the front matter that the Hugging Face hub reads.

    Parameters
    ----------
    given
        What the network is given, in words.
    """
    rows = {
        "network": source.network,
        "trained on": source.protocol.dataset,
        "protocol": source.protocol.name,
        "epochs": source.protocol.epochs,
        **_training(source),
        "classes": net.num_classes,
        "top-1 on the test set": f"{source.accuracy:.2f} %",
        "input": given,
        "hash of the weights (kdbench)": source.weights_hash,
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return f"""---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- knowledge-distillation
- kdbench
---

# {_cell(source.name)}

| | |
|---|---|
{table}

```python
import timm

model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True).eval()  # or "local-dir:FOLDER"
```
"""


def _training(source: Described) -> dict[str, object]:
    """Return how a network was trained, where that is known."""
    if source.config is None:
        return {"weights": "imported"}
    method, teacher = dict(source.config["method"]), source.config["teacher"]
    settings = {key: value for key, value in method.items() if key not in {"name", "version"}}
    rows: dict[str, object] = {"method": method["name"], "seed": source.config["seed"]}
    if teacher:
        rows["teacher"] = f"{teacher['network']} ({teacher['id'][:13]})"
    if settings:
        rows["settings"] = ", ".join(f"{key} = {value}" for key, value in settings.items())
    return rows


def _cell(value: object) -> str:
    """Return a value as a cell of a table in Markdown, in one line."""
    text = printable(str(value))
    return "".join(f"\\{letter}" if letter in "|`*_<>[]\\" else letter for letter in text)
