"""Teachers with images of their own size: the student's crop and flip, of the same decoded image, at another side."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from cells import CPU, Typed
from digit_files import NAME, RULES, register, write_digits
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from kdbench.data.batches import Batches
from kdbench.data.datasets import load_dataset
from kdbench.data.decoding.crops import central_box, evaluation_sides, plain_crop
from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.data.fabricated import fabricated
from kdbench.engine.bench import Bench
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair
from kdbench.method import PLAIN, ViewPlan
from kdbench.models import build_backbone
from kdbench.models.pretrained import Published, Source
from kdbench.teachers.cache_list import list_caches
from kdbench.teachers.outputs import LiveTeacher
from kdbench.utils.text import size

STRONG = ViewPlan((0, 1), num_strong=1)
SIDE = 24


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, RULES.replace("flip = false", "flip = true\npool = 2"))


def streamed(digits: Path, runs: Path, workers: int = 0) -> Session:
    return Session.open(NAME, data=f"folder:{digits}", runs=runs, device="cpu", workers=workers)


def resident(npz: Path, runs: Path) -> Session:
    return Session.open("digits-demo-v1", data=f"npz:{npz}", epochs=2, runs=runs, device="cpu")


def first_group(session: Session, plan: ViewPlan, *sides: int) -> tuple[Batches, Any]:
    batches = Batches(session.device_data, session.protocol, 1)
    batches.add(plan, sides)
    batches.add(PLAIN)
    batches.begin(1)
    return batches, batches.groups(0)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_view_is_the_same_box_and_flip(workers: int, digits: Path, tmp_path: Path) -> None:
    """Against boxes that Pillow cuts out of the files; the student's views stay as they are, bit for bit."""
    alone, group = first_group(streamed(digits, tmp_path), STRONG)
    session = streamed(digits, tmp_path, workers)
    batches, group = first_group(session, STRONG, SIDE)
    assert torch.equal(batches.images(group, STRONG), alone.images(group, STRONG))
    views = batches.images(group, STRONG, SIDE)
    assert views.shape == (3 * len(group.index), 3, SIDE, SIDE)
    dataset = session.dataset
    assert isinstance(dataset, StreamedDataset)
    crops, turned, strong = views.chunk(3)
    assert torch.equal(turned, crops.rot90(1, (2, 3)))
    ids = batches.views.ids(PLAIN, group.index)[0]
    for row, (index, crop) in enumerate(zip(group.index.tolist(), ids.tolist(), strict=True)):
        image = Image.open(io.BytesIO(dataset.files.train.read(index))).convert("RGB")
        box = plain_crop(dataset._rules, (image.height, image.width), index, crop)
        pixels = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        pixels = pixels.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if box.flip else pixels
        bytes_ = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)
        assert torch.equal(crops[row], bytes_.permute(2, 0, 1) / 255)
    # The same operations in the same places: seen at the student's side again, the strong views are alike.
    small = interpolate(strong, (16, 16), mode="bilinear", antialias=True)
    apart = (small - batches.images(group, STRONG).chunk(3)[2]).abs().mean(dim=(1, 2, 3))
    others = (small - batches.images(group, STRONG).chunk(3)[2].roll(1, 0)).abs().mean(dim=(1, 2, 3))
    assert apart.mean() < 0.5 * others.mean()
    batches.data.images.close()


def test_test_images_have_the_same_box(digits: Path, tmp_path: Path) -> None:
    dataset = streamed(digits, tmp_path).dataset
    assert isinstance(dataset, StreamedDataset)
    rules, large = dataset._rules, dataset._rules.with_side(160)
    assert large.evaluation_size == 180
    for image_size in ((20, 18), (333, 500), (64, 64)):
        boxes = []
        for each in (rules, large):
            height, width = evaluation_sides(each, image_size)
            edges = torch.tensor(central_box(each, (height, width)), dtype=torch.float64)
            boxes.append(edges / torch.tensor([width, height, width, height]))
        torch.testing.assert_close(*boxes, rtol=0, atol=0.5 / 16)
    (_, pixels), *_ = dataset.with_side(SIDE).evaluation(CPU).batches()
    assert pixels.shape == (20, 3, SIDE, SIDE)


@pytest.mark.parametrize("side", [8, 32])
def test_a_resident_view_is_the_padded_crop_resized(side: int, tiny_npz: Path, tmp_path: Path) -> None:
    session = resident(tiny_npz, tmp_path)
    batches, group = first_group(session, STRONG, side)
    views = batches.images(group, STRONG)
    expected = interpolate(views, (side, side), mode="bilinear", antialias=True)
    assert torch.equal(batches.images(group, STRONG, side), expected)
    pairs = batches.visits(range(1), PLAIN)[: len(group.index)]
    assert torch.equal(batches.data.images.views(pairs, side), expected[: len(group.index)])
    (_, pixels), *_ = session.dataset.with_side(side).evaluation(CPU).batches()
    (_, plain), *_ = session.dataset.evaluation(CPU).batches()
    assert torch.equal(pixels, interpolate(plain, (side, side), mode="bilinear", antialias=True))


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_it_is_trained_and_queried_at_its_size(
    kind: str, tiny_npz: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = resident(tiny_npz, tmp_path) if kind == "resident" else streamed(digits, tmp_path)
    card = session.train_teacher("resnet8", image_size=SIDE)
    usual = session.train_teacher("resnet8")
    assert (card.image_size, usual.image_size) == (SIDE, None)
    assert card.id != usual.id
    assert session.train_teacher("resnet8", image_size=16) == usual
    assert session.train_teacher("resnet8", image_size=SIDE) == card
    seen: list[int] = []
    outputs = LiveTeacher.outputs

    def note(live: LiveTeacher, images: Tensor, reads: Any) -> Any:
        seen.append(images.shape[-1])
        return outputs(live, images, reads)

    monkeypatch.setattr(LiveTeacher, "outputs", note)
    cells = [session.cell(method="kd", student="resnet8", teacher=each.spec, seed=1) for each in (card, usual)]
    own, same = (session.run(cell, cache="off") for cell in cells)
    assert set(seen) == {SIDE, 16}
    assert own["teacher"]["image_size"] == SIDE
    assert "image_size" not in same["teacher"]
    assert own["loss"] != same["loss"]
    seen.clear()
    cached = session.run(session.cell(method="kd", student="resnet8", teacher=card.spec, seed=2), cache="on")
    assert set(seen) == {SIDE}
    live = streamed(digits, tmp_path / "live") if kind == "streamed" else resident(tiny_npz, tmp_path / "live")
    other = live.train_teacher("resnet8", image_size=SIDE)
    assert other.ref == card.ref
    queried = live.run(live.cell(method="kd", student="resnet8", teacher=card.spec, seed=2), cache="off")
    assert queried["loss"]["kd"] == pytest.approx(cached["loss"]["kd"], rel=1e-3)
    identities = [cache.identity for cache in list_caches(tmp_path)]
    assert [identity.image_size for identity in identities if identity] == [SIDE]
    session.build_caches([session.cell(method="kd", student="resnet8", teacher=usual.spec, seed=3)], cache="on")
    values = [cache.identity.values() for cache in list_caches(tmp_path) if cache.identity]
    assert sorted("image_size" in each for each in values) == [False, True]


def test_networks_beside_each_other_have_the_results_that_they_have_alone(digits: Path, tmp_path: Path) -> None:
    """A teacher of another size in lockstep changes nothing for the others, nor an ensemble of both."""
    weights: dict[str, set[str]] = {}
    for number in range(2):
        session = streamed(digits, tmp_path / str(number))
        specs = [session.train_teacher("resnet8", image_size=size).spec for size in (SIDE, None)]
        pairs = [("kd", specs[0]), ("pckd", specs[0]), ("kd", specs[1]), ("mlld", "+".join(specs))]
        cells = [session.cell(method=name, student="resnet8", teacher=teacher, seed=1) for name, teacher in pairs]
        groups = [cells] if number else [[cell] for cell in cells]
        for record in (record for group in groups for record in session.run_all(group, cache="off")):
            assert isinstance(record, dict), record
            weights.setdefault(record["cell"], set()).add(record["weights"])
    assert {len(each) for each in weights.values()} == {1}


def test_commands_take_an_image_size(typed: Typed, tiny_npz: Path) -> None:
    words = ["--protocol", "digits-demo-v1", "--data", f"npz:{tiny_npz}", "--network", "resnet8"]
    code, _, err = typed("teacher", "train", *words, "--epochs", "1", "--image-size", SIDE)
    assert code == 0, err
    assert f"images of {SIDE} x {SIDE}" in typed("teacher", "list")[1]
    torch.manual_seed(0)
    safetensors.torch.save_file(build_backbone("resnet8", 3, (16, 16)).state_dict(), "a.safetensors")
    for side in (SIDE, SIDE, 16):
        code, _, err = typed("teacher", "import", "a.safetensors", *words, "--image-size", side)
        assert code == 0, err
    assert len(list(Path("runs").glob("*/teachers/*/teacher.json"))) == 3
    for side in ("0", "-3", "99999", "1.5"):
        code, _, err = typed("teacher", "train", *words, "--image-size", side)
        assert code == 2
        assert "--image-size" in err
    (ref,) = (Path(card).parent.name for card in Path("runs").glob("*/teachers/*/teacher.json") if _trained(card))
    pair = ["--teacher", ref.replace("-", "@"), "--student", "resnet8", "--method", "kd", "--epochs", "1"]
    code, _, err = typed("train", *words[:4], *pair)
    assert code == 0, err
    note = f"the teacher resnet8: images of {SIDE} x {SIDE}, resized from the student's crops"
    assert note in typed("table", "runs")[1]


def _trained(card: Path) -> bool:
    return "trained here" in card.read_text()


def test_published_weights_bring_their_size(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name; weights that were imported before at the student's size stay the teacher that they are."""
    torch.manual_seed(0)
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(build_backbone("resnet8", 10, (16, 16)).state_dict(), path)
    about = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear", "evaluation_size": 36, "size": 32}
    published = Published(name="x:resnet8.tag", url="", input_size=SIDE, **about)  # type: ignore[arg-type]
    monkeypatch.setattr("kdbench.models.pretrained.find_source", lambda *_, **__: Source(path, published))
    fresh = streamed(digits, tmp_path / "fresh").import_teacher("x:resnet8.tag", "resnet8")
    assert fresh.image_size == SIDE
    session = streamed(digits, tmp_path / "before")
    with monkeypatch.context() as before:
        before.setattr("kdbench.models.bring.own_size", lambda *_: None)
        earlier = session.import_teacher("x:resnet8.tag", "resnet8")
    assert earlier.image_size is None
    assert session.import_teacher("x:resnet8.tag", "resnet8") == earlier
    assert session.import_teacher("x:resnet8.tag", "resnet8", image_size=SIDE).ref == fresh.ref


def test_images_that_are_not_square_keep_their_size(tmp_path: Path) -> None:
    arrays = {f"{split}_images": np.zeros((6, 8, 10, 3), np.uint8) for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(6) % 2 for split in ("train", "test")}
    np.savez(tmp_path / "wide.npz", **arrays)
    dataset = load_dataset(f"npz:{tmp_path / 'wide.npz'}", Path())
    with pytest.raises(UserError, match="images of 8 x 10 pixels cannot be resized to 24 x 24: they are not square"):
        dataset.with_side(SIDE)


def test_a_plan_of_a_grid_counts_its_images(typed: Typed, digits: Path, tmp_path: Path) -> None:
    session = streamed(digits, Path("runs"))
    card = session.train_teacher("resnet8", image_size=SIDE)
    Path("g.toml").write_text(
        f'protocol = "{NAME}"\ndata = "folder:{digits}"\npairs = ["{card.spec}>resnet8"]\nmethods = ["kd"]\nseeds = 1\n'
    )
    code, out, err = typed("grid", "plan", "g.toml", "--device", "cpu")
    assert code == 0, err
    batch = 8 * 3 * (16**2 + SIDE**2)
    assert f"2 batches of {size(batch)} each" in out
    options = dataclasses.replace(session.options, runs=tmp_path / "scratch")
    dataset = fabricated(session.protocol, session.dataset)
    pair = Pair.parse("resnet8+resnet14>resnet8")
    bench = Bench(session.protocol, dataset, pair, tmp_path / "scratch", options, (SIDE, None))
    seen = [member.teacher.net.image_size[0] for member in bench.members if isinstance(member, LiveTeacher)]
    assert seen == [SIDE, 16]
    for step in (bench.live_step(bench.cell("kd")), bench.cached_step(bench.cell("kd"))):
        step()
