"""What methods share that read the map whose mean over positions the classifier sees."""

from kdbench.method import Net, Setup, Shape


def map_shapes(name: str, setup: Setup) -> tuple[Shape, Shape]:
    """Return the shapes of the maps of student and teacher.

    Raises
    ------
    ValueError
        A network has no such map.
    """
    return _shape(name, setup.student, "student"), _shape(name, setup.teacher, "teacher")


def _shape(name: str, net: Net, role: str) -> Shape:
    if net.map_shape is None:
        raise ValueError(
            f"{name} classifies the positions of the last feature map, but {net.absent['map']}: choose another {role}"
        )
    return net.map_shape
