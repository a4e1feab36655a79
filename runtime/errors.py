"""The errors of `runtime`: how it runs.

RuntimeFault
├── ConfigError                 a configuration file that does not say what it must
├── TrainingError               a trainer, model, loss or metric that cannot be built; no data was touched
│   ├── TrainingFailedError     training failed after data was touched: the one code `site_failed`
│   └── PluginError             a plug-in that is missing, not approved, or not what was approved
├── JournalError                another process holds the state folder
├── TransportError              a pipe or service between server and site broke its protocol
├── ReplayError                 a replay that cannot begin: no auditor, another key, a log that does not hold
│   ├── MissingEvidenceError    what the log names is not at hand, or other bytes lie there: UNDECIDED
│   └── FalseCommitError        what the log says is not so: FAIL
├── GlobusFault                 Globus' services, or this party's login to them
│   ├── LoginNeededError        no token, or one that Globus takes no longer: a person must log in
│   ├── GlobusRefusedError      Globus answers that this credential may not do this
│   ├── GlobusUnavailableError  Globus does not answer, or asks to come again (`retryable`)
│   ├── GlobusSetupError        Globus cannot be used from here: a missing extra, a damaged file of tokens
│   ├── TestCloudError          the environment leads to another cloud than Globus' own
│   └── AdmissionError          an enrolment that the server does not admit
├── EndpointError               an endpoint's folder that cannot be written so, or is not what was written
├── RunError                    a run that cannot be started or resumed as asked
├── SiteError                   why a site gives no receipt
│   ├── LostStateError          it took part before, and its state folder does not know
│   ├── SiteHaltedError         it saw a fork or an equivocation, and waits for a person
│   ├── ConsistencyNeededError  the delivery's proof begins at another checkpoint than the site's last
│   ├── RefusedError            the site's own policy or ledger does not allow this release
│   ├── LedgerUnavailableError  the anchor of the ledger does not answer (`retryable`)
│   ├── UnsettledError          the log does not account for what this site answered before
│   └── GroupUnavailableError   this site could not ask its own authority about the server (`retryable`)
└── StoreError                  the object store
    ├── StoreUnavailableError   no answer, or an answer that asks to come again (`retryable`)
    ├── StoreSetupError         the store cannot be used as configured: missing extra, wrong address, refused credentials
    ├── StoreDamagedError       something in the store's folder is not what the store put there
    ├── ObjectKeyError          not an object key of ours
    ├── GrantError              the grant does not allow this: expired, refused, or for another object, length or address
    ├── ObjectExistsError       the key is taken, and not shown to hold the same bytes
    ├── ObjectMissingError      no object under this key
    ├── ObjectTooLargeError     longer than the reader's limit
    ├── WrongLengthError        not the length that was promised
    └── WrongDigestError        not the bytes that were promised
"""

from __future__ import annotations

from typing import ClassVar

from ..errors import CountersealError


class RuntimeFault(CountersealError):
    """Something went wrong while running."""

    code = "runtime"


class StoreError(RuntimeFault):
    """The object store did not do what was asked."""

    code = "store"
    retryable: ClassVar[bool] = False


class StoreUnavailableError(StoreError):
    """No answer, or an answer that asks to come again; nothing is known to be wrong with the request."""

    code = "store_unavailable"
    retryable = True


class StoreSetupError(StoreError):
    """The store cannot be used as configured."""

    code = "store_setup"


class StoreDamagedError(StoreError):
    """Something in the store's folder is not what the store put there."""

    code = "store_damaged"


class ObjectKeyError(StoreError):
    """Not an object key of ours."""

    code = "object_key"


class GrantError(StoreError):
    """The grant does not allow this."""

    code = "grant"


class ObjectExistsError(StoreError):
    """The key is taken, and not shown to hold the same bytes."""

    code = "exists"


class ObjectMissingError(StoreError):
    """No object under this key."""

    code = "missing"


class ObjectTooLargeError(StoreError):
    """The object is longer than the reader's limit."""

    code = "too_large"


class WrongLengthError(StoreError):
    """Not the length that was promised."""

    code = "wrong_length"


class WrongDigestError(StoreError):
    """Not the bytes that were promised."""

    code = "wrong_digest"


class ConfigError(RuntimeFault):
    """A configuration file that does not say what it must; every problem names its file and line."""

    code = "config"


class TrainingError(RuntimeFault):
    """A trainer, model, loss or metric that cannot be built or given these parameters; no data was touched."""

    code = "training"


class TrainingFailedError(TrainingError):
    """Training or evaluation failed after data was touched: the one code that says nothing about the data."""

    code = "site_failed"


class PluginError(TrainingError):
    """A plug-in that is missing, not approved, or not what was approved."""

    code = "plugin"


class JournalError(RuntimeFault):
    """Another process holds the state folder."""

    code = "journal"


class TransportError(RuntimeFault):
    """A pipe or service between server and site broke its protocol."""

    code = "transport"


class ReplayError(RuntimeFault):
    """A replay that cannot begin: no auditor, another key, a log that does not hold."""

    code = "replay"


class MissingEvidenceError(ReplayError):
    """What the log names is not at hand, or other bytes lie in its place: nothing is decided."""

    code = "replay_missing"


class FalseCommitError(ReplayError):
    """What the log says of a commit is not so."""

    code = "replay_false"


class GlobusFault(RuntimeFault):
    """Something is wrong with Globus' services, or with this party's login to them."""

    code = "globus"
    retryable: ClassVar[bool] = False


class LoginNeededError(GlobusFault):
    """No token, or one that Globus takes no longer: a person must log in."""

    code = "login_needed"


class GlobusRefusedError(GlobusFault):
    """Globus answers that this credential may not do this.

    ``status`` is the HTTP status of the answer.
    """

    code = "globus_refused"

    def __init__(self, what: str, *, where: str = "", remedy: str = "", status: int = 403) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.status = status


class GlobusUnavailableError(GlobusFault):
    """Globus does not answer, or asks to come again.

    ``retry_after`` is the number of seconds it asks for, where it limits the rate, and else None.
    """

    code = "globus_unavailable"
    retryable = True

    def __init__(self, what: str, *, where: str = "", remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.retry_after = retry_after


class GlobusSetupError(GlobusFault):
    """Globus cannot be used from here: a missing extra, a damaged file of tokens."""

    code = "globus_setup"


class TestCloudError(GlobusFault):
    """The environment leads to another cloud than Globus' own."""

    code = "test_cloud"
    __test__ = False  # not a test, whatever its name makes pytest think


class AdmissionError(GlobusFault):
    """An enrolment that the server does not admit; `reason` is the code that the log gets."""

    code = "admission"

    def __init__(self, reason: str, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.reason = reason


class EndpointError(RuntimeFault):
    """An endpoint's folder that cannot be written so, or is not what was written."""

    code = "endpoint"


class RunError(RuntimeFault):
    """A run that cannot be started or resumed as asked."""

    code = "run"


class SiteError(RuntimeFault):
    """Why a site gives no receipt."""

    code = "site"


class LostStateError(SiteError):
    """This party took part before, and its state folder does not know: it would accept a replay of everything."""

    code = "lost_state"


class SiteHaltedError(SiteError):
    """The site saw a fork or an equivocation, and waits for a person."""

    code = "halted"


class ConsistencyNeededError(SiteError):
    """The delivery's proof begins at another checkpoint than the site's last one, which has ``size`` leaves."""

    code = "consistency_needed"

    def __init__(self, size: int) -> None:
        super().__init__(f"this site's last checkpoint has {size} leaves", where="delivery.consistency_from")
        self.size = size


class RefusedError(SiteError):
    """The site's own policy or ledger does not allow this; the server learns this code and nothing else."""

    code = "policy_denied"


class LedgerUnavailableError(SiteError):
    """The anchor of this site's ledger does not answer: nothing is decided, the server may deliver again."""

    code = "ledger_unavailable"
    retryable: ClassVar[bool] = True


class UnsettledError(SiteError):
    """The log does not account for what this site answered before."""

    code = "unsettled"


class GroupUnavailableError(SiteError):
    """This site could not ask its own authority about the server: nothing is decided, the server may deliver again."""

    code = "outage"
    retryable: ClassVar[bool] = True
