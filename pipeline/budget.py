"""The error budget: so many rejects that something must be wrong with the job stop it."""

from pipeline.config import BudgetConfig
from pipeline.errors import ErrorBudgetExceeded
from pipeline.progress import WANTED_REJECTS, Counters

__all__ = ["check_budget"]

_SHOWN = 3


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
