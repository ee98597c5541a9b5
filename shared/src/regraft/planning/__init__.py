"""What would happen to a job: stages, memory, time and disk on every target on offer, warnings, refusals.

Reads headers, manifests and file times, never contents, and writes nothing.
"""

from regraft.planning.advice import warnings_of
from regraft.planning.answer import Plan, TargetPlan
from regraft.planning.fitting import check_memory, check_options
from regraft.planning.make import epochs_of, make_plan
from regraft.planning.offers import Offer, cards, offer_of, offers_of, this_machine
from regraft.planning.seen import NOTHING, Seen, look, plan_hash

__all__ = [
    "NOTHING",
    "Offer",
    "Plan",
    "Seen",
    "TargetPlan",
    "cards",
    "check_memory",
    "check_options",
    "epochs_of",
    "look",
    "make_plan",
    "offer_of",
    "offers_of",
    "plan_hash",
    "this_machine",
    "warnings_of",
]
