"""What Snakemake does at every start for each job, and this workflow has no use for."""

from functools import cache

from snakemake import common, rules
from snakemake.persistence import PersistenceBase


def lighten() -> None:
    """Keep Snakemake from doing what cannot change the outcome: see the functions here."""
    _leave_out_pandas()
    _remember_signatures()


def _leave_out_pandas() -> None:
    """Keep pandas, a quarter of a second, from being imported to ask of each param whether it is a table.

    Params here are texts, which Snakemake writes in the same way without it.
    """
    PersistenceBase._serialize_param = property(lambda persistence: persistence._serialize_param_builtin)


def _remember_signatures() -> None:
    """Look at the parameters of each function of a rule once, not twice for every job that is drawn."""
    common.get_function_params = rules.get_function_params = cache(common.get_function_params)
