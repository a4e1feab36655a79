"""What the tests of the site policy share: a request that the default policy allows, and small policies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from counterseal.trust.policy.policy import SitePolicy
from counterseal.trust.policy.request import PolicyRequest
from counterseal.trust.terms import PrivacyTerms

TERMS = PrivacyTerms(
    mechanism="dp-sgd", clip_norm=1.0, noise_multiplier=1.1, delta=1e-5, releases=20, steps=50, sampling_rate=0.02
)
OUTPUT = PrivacyTerms(
    mechanism="output-gaussian",
    unit="site",
    adjacency="any",
    clip_norm=0.5,
    noise_multiplier=4.0,
    delta=1e-6,
    releases=20,
)
LAPLACE = PrivacyTerms(
    mechanism="output-laplace",
    unit="site",
    adjacency="any",
    clip_norm=0.5,
    noise_multiplier=4.0,
    delta=0.0,
    releases=20,
)
BASE = PolicyRequest(
    action="train",
    server="server@fed.example",
    federation="ours",
    group_source="roster",
    dataset="hearts",
    unit="record",
    charter="ab" * 32,
    run="run-1",
    version=3,
    private=True,
    terms=TERMS,
    epsilon_run=4.0,
    anchored=True,
    commit_before_upload=True,
    auditor=True,
    server_validates_updates=False,
    unprotected_allowed=False,
)
TRAIN = 'action == Counterseal::Action::"train"'
ANY = "permit (principal, action, resource)"


def asked(**facts: Any) -> PolicyRequest:
    """Return the allowed request with other facts."""
    return replace(BASE, **facts)


def exact(**facts: Any) -> PolicyRequest:
    """Return a request of a run without privacy terms."""
    return asked(private=False, terms=None, epsilon_run=None, **facts)


def one(condition: str, *, name: str = "one", head: str = ANY) -> str:
    """Return a policy with one condition."""
    return f'@id("{name}") {head} when {{ {condition} }};'


def policy(*texts: str) -> SitePolicy:
    """Return the policy made of these texts."""
    return SitePolicy("\n".join(texts).encode(), file="site.cedar")
