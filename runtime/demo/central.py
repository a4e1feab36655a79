"""What a run with noise at the server says about sites, in words, and how bad it is for few of them."""

from __future__ import annotations

import math

from ..central import CentralAccount
from .privacy import Answer, odds

__all__ = ["how_bad", "in_a_sentence", "server_answers", "trusted"]


def in_a_sentence(account: CentralAccount) -> str:
    """Return what is stated, with unit, adjacency and composition."""
    rule = account.terms.rule
    return (
        f"dp-fedavg, noise of {rule.noise_multiplier:g} clipping bounds added by the server once a version: epsilon at most "
        f"{account.epsilon:g} at delta {account.terms.delta:g} for the {account.commits} versions of this run together. The unit "
        f"is one site (add-remove: its update counts or not), every site takes part in every version (q = 1), computed by "
        "privacy loss distributions from the numbers in the log."
    )


def trusted() -> str:
    """Return who has to be believed."""
    return (
        "The server sees every site's update exactly, and is trusted to clip it, to add the noise and to forget; whoever has the "
        "auditor's key is trusted as well. Only those who see no more than the models are kept from a site's data."
    )


def how_bad(account: CentralAccount, dimensions: int) -> str:
    """Return the noise beside the signal: in one version, and over those made."""
    rule, noise, made = account.terms.rule, account.terms.noise_norm(dimensions), max(account.commits, 1)
    times = noise / rule.clip_norm
    said = (
        f"In each version the mean of {rule.sites} sites' updates has a norm of {rule.clip_norm:g} at most, and the noise on its "
        f"{dimensions:,} numbers one of {noise:.3g}: {times:,.1f} times as much. Over {made} versions the noise adds up to "
        f"{noise * math.sqrt(made):.3g}, and steps that all point one way to {rule.clip_norm * made:.3g} at most."
    )
    if times <= 1:
        return said
    return (
        f"{said} With {rule.sites} sites that cannot be otherwise: the noise is divided by their number. Protect records instead "
        "(dp-sgd), of which there are more."
    )


def server_answers(account: CentralAccount, dimensions: int) -> tuple[Answer, ...]:
    """Return the questions of `privacy.answers`, for noise that the server adds."""
    rule = account.terms.rule
    return (
        Answer(
            "Who or what is protected?",
            "Each site as a whole: whether its update counted in a version, with whatever data, the models would look much the "
            "same. That it is a member and that it answered is public.",
        ),
        Answer("From whom?", "From those who see the models and the log only. " + trusted()),
        Answer(
            "How much can still be learned?",
            f"Epsilon {account.epsilon:g} at delta {account.terms.delta:g} for all {account.commits} versions together. Somebody "
            f"who is undecided about one site, half and half, can be right at most {odds(account.epsilon):.2%} of the time after "
            f"seeing all of them (but for a chance of {account.terms.delta:g}). To tell one site's data from any other data in "
            f"their place is twice the distance, and costs more.",
        ),
        Answer(
            "How is it done?",
            f"The server cuts each update to length {rule.clip_norm:g}, rounds it to whole numbers and adds all of them. Once, "
            f"it adds discrete Gaussian noise of {rule.noise_multiplier:g} times that length; it divides by {rule.sites}, a "
            "public number.",
        ),
        Answer("How bad is it?", how_bad(account, dimensions)),
        Answer("Who adds the noise?", "The server. No site adds any, and no site can check that the server did."),
        Answer(
            "What is not covered?",
            "What the server and its operator see. That an update was refused because it is not finite, or that a training "
            "failed, which is public. What a site's ledger holds: it has nothing of this. What the model says about a group.",
        ),
        Answer(
            "Who can check it?",
            "Anybody can compute the epsilon again from the numbers in the log (`counterseal audit privacy`). An auditor, if the "
            "charter names one, recomputes every version bit for bit and sees how much noise there was (`counterseal audit "
            "replay`). That it was drawn at random, nobody.",
        ),
    )
