"""Networks of users: files in their folders and installed packages, as good as kdbench's own."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path

import pytest
import torch
from own_files import forget, write_network

from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.grid.code_copy import copy_code
from kdbench.models import build_backbone, canonical_network, network_version, own_network
from kdbench.net import LOGITS, Backbone, Net, Outputs

SIZE = (16, 16)
PLAIN = "class Plain(nn.Module):\n    def __init__(self, num_classes):\n        super().__init__()\nNETWORK = Plain\n"
WHOLE = """
class Whole(Backbone):
    def __init__(self, num_classes, image_size):
        super().__init__()
        self.body, self.image_size = block(3, 8, 2), image_size
        self.fc = nn.Linear(8, num_classes)

    def features(self, images, *, maps):
        x = self.body(images)
        return Features(x.mean((2, 3)), (x,), None, images, x)

    def head(self):
        return self.fc

NETWORK = Whole
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of own files that this process knows."""
    monkeypatch.setenv(own_folders.OWN, str(tmp_path / "own"))
    (tmp_path / "own" / "networks").mkdir(parents=True)
    return tmp_path / "own"


def build(name: str, num_classes: int = 5) -> Net:
    torch.manual_seed(3)
    return Net(name, build_backbone(name, num_classes, SIZE), mean=(0.5,) * 3, std=(0.2,) * 3, image_size=SIZE).eval()


def test_a_plain_module_shows_its_parts(own: Path) -> None:
    write_network(own)
    net, images = build(canonical_network("M-ine")), torch.rand(4, 3, *SIZE)
    model = net.backbone.model
    normalised = (images - 0.5) / 0.2
    first = model.first(normalised)  # type: ignore[operator]
    second = model.second(first)  # type: ignore[operator]
    outputs: Outputs = net(images, {"logits", "penultimate", "map", "stages"})
    assert torch.equal(outputs.logits, model(normalised))  # type: ignore[operator]
    assert all(torch.equal(*pair) for pair in zip(outputs.stages, (first, second), strict=True))
    assert torch.equal(outputs.map, second)
    assert torch.equal(outputs.penultimate, second.mean((2, 3)))
    assert (net.shapes, net.width, net.num_classes) == (((8, 8, 8), (12, 4, 4)), 12, 5)
    assert {name.partition(".")[0] for name in net.backbone.state_dict()} == {"model"}
    assert not net.backbone.features(normalised, maps=False).stages
    assert set(net.absent) == {"stem", "preact"}


def test_a_copy_sees_its_own_modules(own: Path) -> None:
    write_network(own)
    net, images = build("mine"), torch.rand(2, 3, *SIZE)
    before: Outputs = net(images, {"logits", "stages"})
    copied = copy.deepcopy(net)
    for parameter in copied.parameters():
        torch.nn.init.zeros_(parameter)
    changed: Outputs = copied(images, {"logits", "stages"})
    assert not changed.stages[0].any()
    after: Outputs = net(images, {"logits", "stages"})
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.stages[1], before.stages[1])


def test_a_compiled_module_shows_its_parts(own: Path) -> None:
    """The hooks are part of what is compiled: ``--compile`` on a CPU."""
    write_network(own)
    net, images = build("mine"), torch.rand(2, 3, *SIZE)
    reads = LOGITS | {"stages"}
    expected: Outputs = net(images, reads)
    compiled = torch.compile(net.forward, dynamic=False, backend="eager")
    for _ in range(2):
        outputs = compiled(images, reads)
        assert torch.allclose(outputs.logits, expected.logits, atol=1e-6)
        assert torch.allclose(outputs.stages[1], expected.stages[1], atol=1e-6)


def test_a_backbone_says_its_parts_itself(own: Path) -> None:
    write_network(own, more=WHOLE)
    net = build("mine")
    assert isinstance(net.backbone, Backbone)
    assert net.backbone.image_size == SIZE
    assert (net.shapes, net.stem_shape, net.map_shape) == (((8, 8, 8),), (3, 16, 16), (8, 8, 8))


def test_the_meta_device_gives_shapes_without_values(own: Path) -> None:
    """Plans of grids build every network so."""
    write_network(own)
    with torch.device("meta"):
        backbone = build_backbone("mine", 5, SIZE)
        net = Net("mine", backbone, mean=(0.5,) * 3, std=(0.2,) * 3, image_size=SIZE)
    assert net.shapes == ((8, 8, 8), (12, 4, 4))
    assert all(parameter.is_meta for parameter in net.parameters())


BROKEN = {
    "import nowhere_to_be_found\n": r"own/networks/mine\.py, line \d+: ModuleNotFoundError: No module named .*; fix",
    "NETWORK = 3\n": r"its NETWORK is 3: it must be a class that inherits from torch\.nn\.Module",
    "Other = type('Other', (Mine,), {})\nOther.__module__ = __name__\nclass Third(Mine): ...\n": (
        r"defines the networks Other, Third: end it with NETWORK = Third"
    ),
    PLAIN: r"Plain does not say where its feature maps are: add the paths .*such as STAGES = \"layer1\", \"layer2\"",
    "Mine.STAGES = 'first'\n": r"STAGES is 'first': it must be paths of modules",
    "Mine.CLASSIFIER = 3\n": r"CLASSIFIER is 3: it must be the path of a module",
    "Mine.VERSION = '2'\n": r"Mine has VERSION = '2': it must be a whole number",
    "Mine.STAGES = ['first', 'third']\n": r"there is no module 'third' in Mine, which has first, second, fc",
    "Mine.STAGES = ['first', 'fc']\n": r"the output of 'fc' is \(2, 5\): a stage is a feature map",
    "Mine.CLASSIFIER = 'first.0'\n": r"the logits of Mine are not the output of its CLASSIFIER 'first\.0', a linear",
    "Mine.__init__ = lambda self: None\n": r"the __init__ of Mine does not take num_classes",
    "Mine.__init__ = lambda self, num_classes, depth: None\n": r"the __init__ of Mine takes depth: give all but",
    "Mine.forward = lambda self, x: 1 / 0\n": r"mine\.py, line \d+: ZeroDivisionError: .*; with images of 16x16",
    "Mine.forward = lambda self, x: (self.fc(self.second(self.first(x)).mean((2, 3))),)\n": (
        r"Mine returns tuple: let its forward\(\) return the logits alone"
    ),
    "Mine.forward = lambda self, x: self.second(self.first(x)).mean((2, 3))\n": (
        r"the logits of Mine for 2 images of 5 classes are \(2, 12\)"
    ),
    "Mine.forward = lambda self, x: 2 * self.fc(self.second(self.first(x)).mean((2, 3)))\n": (
        r"are the output of no linear layer \(nn\.Linear\): let it end in one"
    ),
    "Mine.forward = lambda self, x: self.fc(self.second(self.first(x).mul_(2)).mean((2, 3)))\n": (
        r"the output of 'first' is overwritten after it: let what follows work on a copy"
    ),
    f"{WHOLE}\nWhole.head = lambda self: self.body\n": r"the head\(\) of Whole is Sequential, not nn\.Linear",
    f"{WHOLE}\nWhole.features = lambda self, x, maps: x\n": r"line \d+|features\(\) of Whole returns Tensor",
    "class Bare(Backbone): ...\nNETWORK = Bare\n": r"Bare has no features and no head: define what kdbench\.net",
}


@pytest.mark.parametrize("more", BROKEN)
def test_a_file_that_cannot_be_used_is_one_clear_line(more: str, own: Path) -> None:
    write_network(own, more=more)
    with pytest.raises(UserError, match=BROKEN[more]) as refused:
        build(canonical_network("mine"))
    assert str(refused.value).startswith("network mine cannot be used: ")
    assert "\n" not in str(refused.value)


def test_the_classifier_is_said_where_several_could_be_it(own: Path) -> None:
    init, forward = (
        "self.last = nn.Linear(12, num_classes)\nself.last.load_state_dict(self.fc.state_dict())",
        "self.last(x)",
    )
    write_network(own, init=init, forward=forward)
    with pytest.raises(UserError, match=r'output of 2 linear layers, fc, last: say which with CLASSIFIER = "last"'):
        build("mine")
    write_network(own, init=init, forward=forward, more="Mine.CLASSIFIER = 'fc'\n")
    assert build("mine").width == 12


def test_what_is_no_mean_of_the_last_stage_is_no_map(own: Path) -> None:
    write_network(own, forward="x = second.amax((2, 3))")
    assert "does not see the mean of its last stage" in build("mine").absent["map"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "wide_resnet_40_2",
            r"wide_resnet_40_2 of .* has the name of kdbench's own, wrn_40_2 of kdbench\.models\.wrn",
        ),
        ("resnet20", r"network resnet20 of .* has the name of kdbench's own, resnet20"),
    ],
)
def test_a_name_is_there_once(name: str, message: str, own: Path) -> None:
    write_network(own, name)
    with pytest.raises(UserError, match=message):
        canonical_network("vgg8")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("network", "network is a word of 'kdbench new'"), ("Mine2", "is a lower-case letter, then")],
)
def test_reserved_and_wrong_names_are_one_line(name: str, reason: str, own: Path) -> None:
    write_network(own, name)
    with pytest.raises(UserError, match=f"cannot be used: .*{reason}.*; rename it, or let it begin with _ if it is"):
        build_backbone(canonical_network(name), 5, SIZE)


def test_an_unknown_network_points_to_the_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_network(own)
    with pytest.raises(UserError, match=r"there is no network 'mime'; did you mean mine\?"):
        canonical_network("mime")
    monkeypatch.delenv(own_folders.OWN)
    with pytest.raises(
        UserError, match=f"found with 'kdbench --own DIR', in Python with the environment variable {own_folders.OWN}$"
    ):
        canonical_network("mine")


def test_the_hash_covers_helpers_and_versions_are_of_own_networks_alone(own: Path) -> None:
    (own / "networks" / "_blocks.py").write_text("WIDTH = 3\n")
    write_network(own, more="from ._blocks import WIDTH\n", version=3)
    source = own_network("mine")
    assert source
    before = source.text
    assert (network_version("mine"), network_version("resnet20"), own_network("resnet20")) == (3, None, None)
    (own / "networks" / "_blocks.py").write_text("WIDTH = 4\n")
    forget()
    assert source.changed_since(before)


def test_an_installed_package_brings_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "nets_of_others"
    write_network(package, "theirs")
    for folder in (package, package / "networks"):
        (folder / "__init__.py").write_text("")
    about = tmp_path / "nets_of_others-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nets_of_others\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[kdbench.networks]\ntheirs = nets_of_others.networks.theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = own_network(canonical_network("Theirs"))
    assert source
    assert source.text.startswith("package nets_of_others 1.2 sha256:")
    assert build("theirs").width == 12


def test_a_submission_takes_a_copy_of_own_networks(own: Path, tmp_path: Path) -> None:
    write_network(own)
    (own / "networks" / "_blocks.py").write_text("")
    (own / "protocols").mkdir()
    (own / "protocols" / "rules.toml").write_text('base = "digits-demo-v1"\n')
    lines = copy_code(tmp_path / "submission")
    copied = tmp_path / "submission" / "code" / "kdbench_own" / "0"
    files = sorted(str(path.relative_to(copied)) for path in copied.rglob("*.*"))
    assert files == ["networks/_blocks.py", "networks/mine.py", "protocols/rules.toml"]
    shell = "\n".join([*lines, f'printf %s "${own_folders.OWN}"'])
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout == str(copied)
