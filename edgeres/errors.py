"""What can go wrong, as one tree.

    EdgeresError            the root; one sentence: what is wrong, where, what to do next
    ├── UsageError          an option is not usable as given, or a path: absent, no file, no permission
    ├── InputError          a file was read and is not what it should be: checkpoint, ONNX, image, manifest, sidecar
    ├── MissingRuntime      a package or a device that the step needs is not on this machine
    ├── ParityError         an exported model does not compute what its source computes
    ├── SchemeError         a graph breaks the rules of the scheme it is written for
    └── BuildError          a runtime's parser or compiler refused the model

Exit codes are not known here: `edgeres.cli.main` maps the tree to them.
"""


class EdgeresError(Exception):
    """The root of all errors that edgeres raises on purpose."""


class UsageError(EdgeresError):
    """An option is not usable as given, or a path: absent, no file, no permission."""


class InputError(EdgeresError):
    """A file was read and is not what it should be."""


class MissingRuntime(EdgeresError):
    """A package or a device that the step needs is not on this machine."""


class ParityError(EdgeresError):
    """An exported model does not compute what its source computes."""


class SchemeError(EdgeresError):
    """A graph breaks the rules of the scheme it is written for."""


class BuildError(EdgeresError):
    """A runtime's parser or compiler refused the model."""
