"""The error budget: where so much fails that something must be wrong with the job, it stops."""

from pipeline.config import BudgetConfig
from pipeline.errors import ErrorBudgetExceeded
from pipeline.progress import WANTED_REJECTS, Counters

__all__ = ["check_budget", "check_failures"]

_SHOWN = 3
_FEW = 10


def check_budget(counters: Counters, budget: BudgetConfig, output: str) -> None:
    """Looks at what a run has done so far.

    Args:
        counters: of all workers.
        budget: what is allowed.
        output: the dataset's root, for the message.

    Raises:
        ErrorBudgetExceeded: more was rejected; with the classes, an example of each, and what to do.
    """
    unwanted = {error: count for error, count in counters.rejects.most_common() if error not in WANTED_REJECTS}
    total = sum(unwanted.values())
    if budget.rejects_in_a_row is not None and counters.rejects_in_a_row >= budget.rejects_in_a_row:
        what = f"{counters.rejects_in_a_row:,} videos in a row were rejected (budget.rejects_in_a_row)"
    elif budget.share is not None and counters.videos >= budget.least_videos and total > budget.share * counters.videos:
        what = (
            f"{total:,} of {counters.videos:,} videos were rejected, at most {budget.share:.0%} may be (budget.share)"
        )
    else:
        return
    lines = [
        f"{error} ({count:,}), such as {counters.examples[error]}" for error, count in list(unwanted.items())[:_SHOWN]
    ]
    raise ErrorBudgetExceeded(
        "\n".join(
            [
                f"the job was stopped: {what}",
                *lines,
                f"`vidtok inspect {output}` counts the rejects of what is committed; once the cause is mended, or with",
                "a larger budget (--set budget.share=null), the same command goes on from here",
            ]
        )
    )


def check_failures(in_a_row: int, given: int, budget: BudgetConfig, last: str) -> None:
    """Looks at the shards that were given up since the last one that was done.

    Args:
        in_a_row: how many.
        given: how many shards the run has to do; a few are better all tried, they may be what is left of a large job.
        budget: what is allowed.
        last: the last one and its error, for the message.

    Raises:
        ErrorBudgetExceeded: too many: credentials have expired, say, or a disk is full.
    """
    allowed = budget.failed_shards_in_a_row
    if allowed is not None and in_a_row >= allowed and given >= _FEW * allowed:
        raise ErrorBudgetExceeded(
            f"the job was stopped: {in_a_row:,} shards in a row failed (budget.failed_shards_in_a_row), the last one "
            f"{last}\n"
            "once the cause is mended, or with --set budget.failed_shards_in_a_row=null, the same command goes on"
        )
