"""Documents for the administrator of a bucket: the least that a federation's server needs, and what everybody else may not do.

    iam         what the server's principal may do: the actions of `OPERATIONS`, under the federation's prefix, and no more
    bucket      what nobody may do, whatever else they are allowed: plain HTTP, deleting evidence, and on AWS overwriting,
                old signatures; and that nobody else may touch the federation's objects
    lifecycle   abandoned uploads and probes go, payloads go after the dispute window, evidence never
    lock        the bucket's Object Lock, without a default retention
    cors        none

Two dialects. Amazon's documents use condition keys that other servers do not know, and an unknown key is dangerous: SeaweedFS
takes ``Null: {s3:if-none-match: true}`` for true of every request and then refuses every put. So for an endpoint that is not
Amazon's those statements are left out, and everybody else is told apart by user name instead of by ARN.

Why the lock has no default retention: it would lock payloads too, which are to go after the dispute window. The server binds
a retention to each object that is evidence (`s3_binding`).

Why ``s3:ListBucket`` is not bound to the prefix on AWS alone by ``StringLike``: a get of an absent key has no ``s3:prefix``, and
without the permission to list S3 answers 403 instead of 404; the server could not tell "not answered yet" from "refused".
``StringLikeIfExists`` leaves that, at the price that names (not contents) of other prefixes in the bucket can be listed.

The operations are those that the code uses; a test compares them with what a whole federation really sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

__all__ = ["DOCTOR_OPERATIONS", "KINDS", "OPERATIONS", "Bucket", "Document", "Kind", "documents"]

Kind = Literal["iam", "bucket", "lifecycle", "lock", "cors"]
KINDS: Final[tuple[Kind, ...]] = ("iam", "bucket", "lifecycle", "lock", "cors")
Document: TypeAlias = dict[str, Any]

OPERATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "PutObject": ("s3:PutObject",),
    "GetObject": ("s3:GetObject",),
    "HeadObject": ("s3:GetObject",),
    "ListObjectsV2": ("s3:ListBucket",),
    "CreateMultipartUpload": ("s3:PutObject",),
    "UploadPart": ("s3:PutObject",),
    "ListParts": ("s3:ListMultipartUploadParts",),
    "CompleteMultipartUpload": ("s3:PutObject",),
    "AbortMultipartUpload": ("s3:AbortMultipartUpload",),
}
"""What the server does with S3, or grants to a site, and the permission that each needs."""

DOCTOR_OPERATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "DeleteObject": ("s3:DeleteObject", "s3:DeleteObjectVersion"),
    "ListObjectVersions": ("s3:ListBucketVersions",),
    "ListMultipartUploads": ("s3:ListBucketMultipartUploads",),
    "GetObjectLockConfiguration": ("s3:GetBucketObjectLockConfiguration",),
    "GetBucketLifecycleConfiguration": ("s3:GetLifecycleConfiguration",),
}
"""What `counterseal store doctor` does besides: it looks at the bucket, and removes its own probes."""

_ON_BUCKET: Final = frozenset(
    {
        "s3:ListBucket",
        "s3:ListBucketVersions",
        "s3:ListBucketMultipartUploads",
        "s3:GetBucketObjectLockConfiguration",
        "s3:GetLifecycleConfiguration",
    }
)
_TOUCH: Final = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:PutObjectRetention")
_DAY: Final = 86_400
_WEEK: Final = 7 * _DAY
_ABANDONED_DAYS: Final = 7  # no grant lasts longer, so no upload that is older can go on


@dataclass(frozen=True, slots=True)
class Bucket:
    """What the documents are about.

    Attributes:
        name, prefix: where the federation's objects lie; an empty prefix is the whole bucket.
        amazon: whether the service is Amazon's, and knows its condition keys.
        region: for the condition on the key service.
        principal: ARN of the server's user or role, needed for the bucket's policy.
        readers: ARNs of others who may read: an auditor.
        locks: whether `retention_days` is configured.
        kms: whether `sse` is `aws:kms`; ``kms_key`` is its key where it is known by ARN.
        grant_seconds: how long a grant lasts at most.
        payload_days: when a payload may go.
    """

    name: str
    prefix: str
    amazon: bool
    region: str
    payload_days: int
    principal: str | None = None
    readers: tuple[str, ...] = ()
    locks: bool = False
    kms: bool = False
    kms_key: str | None = None
    grant_seconds: int = _WEEK

    @property
    def arn(self) -> str:
        """The bucket's own name."""
        return f"arn:aws:s3:::{self.name}"

    def under(self, *folders: str) -> list[str]:
        """Return the names of everything under ``folders``; of all objects for none."""
        above = f"{self.arn}/{self.prefix}/" if self.prefix else f"{self.arn}/"
        return [f"{above}{folder}*" for folder in folders or ("",)]

    def key(self, folder: str) -> str:
        """Return a key prefix in the bucket."""
        return f"{self.prefix}/{folder}" if self.prefix else folder


def documents(bucket: Bucket, kinds: Sequence[Kind] = KINDS) -> dict[Kind, Document]:
    """Return the documents of ``kinds``; the bucket's policy needs to know the principal and is left out without."""
    makers = {"iam": _iam, "bucket": _policy, "lifecycle": _lifecycle, "lock": _lock, "cors": _cors}
    return {kind: makers[kind](bucket) for kind in kinds if kind != "bucket" or bucket.principal is not None}


def _actions(operations: Mapping[str, tuple[str, ...]], *, on_bucket: bool) -> list[str]:
    found = {action for actions in operations.values() for action in actions}
    return sorted(action for action in found if (action in _ON_BUCKET) == on_bucket)


def _allow(name: str, actions: Sequence[str], resources: Sequence[str], **more: Any) -> Document:
    return {"Sid": name, "Effect": "Allow", "Action": list(actions), "Resource": list(resources), **more}


def _iam(bucket: Bucket) -> Document:
    like = "StringLikeIfExists" if bucket.amazon else "StringLike"
    names = {"Condition": {like: {"s3:prefix": [bucket.key("*")]}}} if bucket.prefix else {}
    statements = [
        _allow("Objects", _actions(OPERATIONS, on_bucket=False), bucket.under()),
        _allow("Names", _actions(OPERATIONS, on_bucket=True), [bucket.arn], **names),
        _allow("DoctorLooksAtTheBucket", _actions(DOCTOR_OPERATIONS, on_bucket=True), [bucket.arn]),
        _allow("DoctorRemovesItsProbes", _actions(DOCTOR_OPERATIONS, on_bucket=False), bucket.under("doctor/")),
    ]
    if bucket.locks:
        statements.append(_allow("LocksEvidence", ["s3:PutObjectRetention"], bucket.under("log/", "runs/", "doctor/")))
    if bucket.kms and bucket.amazon:
        service = {"StringEquals": {"kms:ViaService": f"s3.{bucket.region}.amazonaws.com"}}
        statements.append(
            _allow("Keys", ["kms:GenerateDataKey", "kms:Decrypt"], [bucket.kms_key or "*"], Condition=service)
        )
    return {"Version": "2012-10-17", "Statement": statements}


def _deny(
    name: str, actions: Sequence[str], resources: Sequence[str], condition: Mapping[str, Any] | None = None
) -> Document:
    found: Document = {"Sid": name, "Effect": "Deny", "Principal": "*", "Action": list(actions)}
    found["Resource"] = list(resources)
    return found if condition is None else {**found, "Condition": dict(condition)}


def _policy(bucket: Bucket) -> Document:
    plain = {"Bool": {"aws:SecureTransport": "false"}}
    statements = [
        *_allowed(bucket),
        _deny("NoPlainHttp", ["s3:*"], [bucket.arn, *bucket.under()], plain),
        _deny("EvidenceStays", ["s3:DeleteObject", "s3:DeleteObjectVersion"], bucket.under("log/", "runs/")),
        *_others(bucket),
    ]
    if bucket.amazon:
        once = {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}
        seconds = max(bucket.grant_seconds, _DAY)  # the server signs for itself for a day
        age = {"NumericGreaterThan": {"s3:signatureAge": str(seconds * 1000)}}
        statements.append(_deny("PutOnce", ["s3:PutObject"], bucket.under(), once))
        statements.append(_deny("NoOldGrants", ["s3:GetObject", "s3:PutObject"], bucket.under(), age))
    return {"Version": "2012-10-17", "Statement": statements}


def _allowed(bucket: Bucket) -> list[Document]:
    """Return the server's own permissions again: a server of another account, or of no account, has them from here only."""
    found = [
        {"Sid": one["Sid"], "Effect": "Allow", "Principal": {"AWS": [bucket.principal]}, **_without_sid(one)}
        for one in _iam(bucket)["Statement"]
        if one["Sid"] != "Keys"
    ]
    if bucket.readers:
        who = {"Principal": {"AWS": list(bucket.readers)}}
        found.append({**_allow("Readers", ["s3:GetObject"], bucket.under()), **who})
        found.append({**_allow("ReadersNames", ["s3:ListBucket"], [bucket.arn]), **who})
    return found


def _without_sid(statement: Document) -> Document:
    return {name: value for name, value in statement.items() if name not in ("Sid", "Effect")}


def _others(bucket: Bucket) -> list[Document]:
    who = [str(bucket.principal)]
    return [
        _deny(
            "NobodyElse", [action for action in _TOUCH if action != "s3:GetObject"], bucket.under(), _not(bucket, who)
        ),
        _deny("NobodyElseReads", ["s3:GetObject"], bucket.under(), _not(bucket, [*who, *bucket.readers])),
    ]


def _not(bucket: Bucket, arns: Sequence[str]) -> Document:
    if bucket.amazon:
        return {"ArnNotEquals": {"aws:PrincipalArn": list(arns)}}
    return {"StringNotEquals": {"aws:username": [arn.rpartition("/")[2] for arn in arns]}}


def _lifecycle(bucket: Bucket) -> Document:
    return {
        "Rules": [
            _rule(
                "abandoned-uploads", bucket, "", AbortIncompleteMultipartUpload={"DaysAfterInitiation": _ABANDONED_DAYS}
            ),
            *_expiring("payloads", bucket, "payloads/", bucket.payload_days),
            *_expiring("probes", bucket, "doctor/", 1),
        ]
    }


def _expiring(name: str, bucket: Bucket, folder: str, days: int) -> list[Document]:
    """Return rules that end the objects of a folder; in a bucket with versions the first only hides them."""
    after = {"NoncurrentVersionExpiration": {"NoncurrentDays": 1}} if bucket.locks else {}
    rules = [_rule(name, bucket, folder, Expiration={"Days": days}, **after)]
    if bucket.locks:
        rules.append(_rule(f"{name}-markers", bucket, folder, Expiration={"ExpiredObjectDeleteMarker": True}))
    return rules


def _rule(name: str, bucket: Bucket, folder: str, **what: Any) -> Document:
    return {"ID": f"counterseal-{name}", "Status": "Enabled", "Filter": {"Prefix": bucket.key(folder)}, **what}


def _lock(bucket: Bucket) -> Document:
    del bucket  # the same for every bucket: see above why there is no default retention
    return {"ObjectLockEnabled": "Enabled"}


def _cors(bucket: Bucket) -> Document:
    del bucket  # no browser has business with a federation's objects
    return {"CORSRules": []}
