"""The charter: the agreement that a federation rests on, its signatures, its quorum and its changes.

    draft = load_charter_draft(path, now=now)                   # charter.yaml; errors name line and field
    signed = sign_charter(draft.payload(), "anna", signer, typed_digest, now=now)
    charter = verify_charter(raw, signatures, now=now)          # every member has signed these bytes
    amendment = apply_amendment(charter, raw, signatures, effective_index=i, now=now, history=history)

Guarantees: a charter that holds was signed by all its members over one digest that their officers compared; its quorum
cannot be split, or it says so (`Charter.warnings`); it changes by the word of the old quorum alone. Not handled here:
who is an active member today (`trust.group`), which key is in force at which leaf (`trust.keys`), cosignatures (`audit`).
"""
