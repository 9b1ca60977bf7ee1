"""`import convert` must find the package beside slt_jax, not a `convert.py` of the user's."""

import importlib.util
import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
OURS = os.path.join(HOME, "convert", "__init__.py")


def find_own_convert() -> None:
    """Where one of our commands runs, what hides `convert` steps back; elsewhere raises an ImportError that names it.

    A program of the user's may want its own `convert`, so that the path of its modules is not touched.
    """
    hider = _hiding()
    if hider and _is_own_command():
        folder = os.path.dirname(hider.removesuffix(f"{os.sep}__init__.py"))
        behind = [entry for entry in sys.path if os.path.realpath(entry) == folder]
        sys.path[:] = [entry for entry in sys.path if entry not in behind] + [HOME, *behind]
        hider = _hiding()
    if hider:
        message = f"{hider} hides the package convert, which slt_jax needs; rename it or run from another folder"
        raise ImportError(message, name="convert", path=hider)


def _hiding() -> str | None:
    """The file or folder that `import convert` finds in place of ours."""
    try:
        spec = importlib.util.find_spec("convert")
    except ValueError:  # a module made by hand
        return None
    if spec is None:
        return None
    path = os.path.realpath(spec.origin or next(iter(spec.submodule_search_locations or [""])))
    return None if path == OURS else path


def _is_own_command() -> bool:
    """Whether Python runs one of our commands, or a process that one has spawned."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # while Python looks for the module that it is to run
        return any(word.removeprefix("-m").startswith("slt_jax.") for word in sys.orig_argv)
    folder, name = os.path.split(os.path.realpath(program))
    return name.startswith("slt-") or folder in (os.path.join(HOME, "tools"), os.path.join(HOME, "slt_jax", "cli"))
