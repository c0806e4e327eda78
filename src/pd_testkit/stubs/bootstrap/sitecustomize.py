"""Installs the stubs that ``PD_TESTKIT_STUBS`` names, in a Python that just starts.

`Installation.child_env` puts this folder first on a child's path, so that a child which was started
by ``multiprocessing``'s spawn or by ``subprocess`` has the stubs of its parent. A ``sitecustomize``
that this one hides runs too.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_HERE = str(Path(__file__).parent)
sys.path[:] = [path for path in sys.path if path != _HERE]

_hidden = PathFinder.find_spec("sitecustomize", sys.path)
if _hidden is not None and _hidden.loader is not None:
    _hidden.loader.exec_module(module_from_spec(_hidden))

if os.environ.get("PD_TESTKIT_STUBS"):
    from pd_testkit.stubs import install

    install(*os.environ["PD_TESTKIT_STUBS"].split(","), replace=True)
