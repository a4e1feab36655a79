"""What a site's officer allows: the site policy, in Cedar. A denied ticket gives the server a reason code and nothing else.

`policy` loads a policy and decides; `request` holds the facts that the site computed; `engine` is all that touches Cedar;
`lints` and `nearby` help the officer who writes one. The language is described in docs/policy.md. Nothing is imported here.
"""
