"""Tell autoprec how much error you can accept; it gives you the fastest attention that keeps to it.

What is named here is imported when it is first used, so that ``import autoprec`` costs nothing and
the command line's help needs no torch. To measure from code: ``from autoprec.tune import tune``.

What is where; nothing imports what stands below it (``tests/test_imports.py`` has the levels):

    types errors paths budget   the nouns, the precision paths, and the error that is accepted
    sizes workloads geometry    workloads, from what a person types or from a model's config.json
    kernels registry            what computes, the fp64 oracle too, and what of it runs where
    probe                       measures times and errors on a machine
    policy                      chooses, from measurements and a budget alone
    profile                     the file of what was measured and chosen
    plan                        what users' code holds: calls, caches, guards, capture
    report                      documents of what was measured, and their formats
    tune verify bench           run these in turn, as the commands of their names do
    commands cli                the command line
    flashinfer transformers     faces for those who call these libraries
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprec.budget import Budget as Budget
    from autoprec.errors import AutoprecError as AutoprecError
    from autoprec.errors import BudgetError as BudgetError
    from autoprec.errors import InputError as InputError
    from autoprec.errors import MachineError as MachineError
    from autoprec.errors import ProfileError as ProfileError
    from autoprec.errors import UnsupportedError as UnsupportedError
    from autoprec.plan.capture import capture as capture
    from autoprec.plan.kv_cache import KVCache as KVCache
    from autoprec.plan.load import load_plan as load_plan
    from autoprec.plan.plan import Plan as Plan
    from autoprec.plan.prepared import PreparedKV as PreparedKV
    from autoprec.plan.sdpa import scaled_dot_product_attention as scaled_dot_product_attention
    from autoprec.types import Profile as Profile
    from autoprec.types import Workload as Workload

__version__ = "0.1.0"

_HOMES = {
    "Budget": "autoprec.budget",
    "AutoprecError": "autoprec.errors",
    "BudgetError": "autoprec.errors",
    "InputError": "autoprec.errors",
    "MachineError": "autoprec.errors",
    "ProfileError": "autoprec.errors",
    "UnsupportedError": "autoprec.errors",
    "capture": "autoprec.plan.capture",
    "KVCache": "autoprec.plan.kv_cache",
    "load_plan": "autoprec.plan.load",
    "Plan": "autoprec.plan.plan",
    "PreparedKV": "autoprec.plan.prepared",
    "scaled_dot_product_attention": "autoprec.plan.sdpa",
    "Profile": "autoprec.types",
    "Workload": "autoprec.types",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604


class _Checkout:
    """Asked last, of what nobody found: how to start Python where a checkout hides the package."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name in ("autoprec.kernels", "autoprec.profiles"):
            raise ModuleNotFoundError(
                f"No module named {name!r}: Python took autoprec from the checkout {_ROOT}, whose "
                "folder lacks it, and not the package installed. Try: python -P",
                name=name,
            )


_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(os.path.join(_ROOT, "pyproject.toml")):
    sys.meta_path.append(_Checkout)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoprec' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
