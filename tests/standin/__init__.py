"""A stand-in for Globus' cloud on this machine, so that everything that speaks to Globus is tested against its real software.

Real, and unchanged: globus-sdk, globus-compute-sdk, the endpoint daemon globus-compute-endpoint with its engines, the wire
formats (globus_compute_common, AMQP 0-9-1 through pika's codecs), identity mapping, forking and the change of user. Ours: the
web services and the broker. Nothing here has been compared with Globus' own cloud; where client software does not settle what
a service answers, the answer is a guess, and the list below says so.

What there is
-------------
- `cloud.Cloud`: Globus Auth, Groups and Compute in this process, on a free port; its methods (`levers.Levers`) make
  identities, groups, codes, faults, and meddle with tasks.
- `control.Control`: the same methods for a cloud in another process (`python -m counterseal.tests.standin.control`). They are
  on a port of their own: nothing meant for Globus reaches them, and they work during an outage.
- `broker.Broker`: the AMQP broker (`python -m counterseal.tests.standin.broker`).
- `world.StandIn`: cloud and broker as processes, which end with ours.
- `daemon.EndpointDaemon`: a real daemon, in a session of its own and without privileges. The SDK's environment "local" means
  http://localhost:5000; the daemon is given the stand-in as its HTTP proxy instead of that port, so that many can be tested at
  once. Where root's interpreter is out of others' reach the daemon gets a mount namespace (`reach`).

Known from client software, its fixtures or its documentation
-------------------------------------------------------------
Token replies and their members, id_tokens (RS512) and keys, PKCE, introspection's base members, session_info.authentications
and auth_time; membership roles and statuses, the names of batch actions, ``memberships`` missing where the caller may not see
them; Compute's routes, bodies and the four members of a submission's reply, queues and exchanges, commands to endpoints,
start-up failures as heartbeats with ``error``; refusals with authorization_parameters; 429 with Retry-After; unknown task groups
refused; 10 MB per submission.

Guessed
-------
- Auth: introspection answers {"active": false} to a client that the token is neither for nor from; unknown scopes are 400
  unknown_scope_error; a service account's session has no authentications; amr and acr; no consents are asked for, and a
  dependent token needs none; a refresh token is not rotated; policies are not tied to projects.
- Groups: my_groups without ``statuses`` lists active memberships; who is invited or pending sees a private group, who was
  removed or left does not; actions that are not allowed stand under ``errors`` of a 200 answer; one who may not see a group may
  still try actions; high assurance asks for a recent login of a member identity, which a service account cannot have; a group
  may lose its last administrator.
- Compute: the ``code`` strings of refusals; {"status": "failed", "reason": "unknown task id"} for unknown or foreign tasks; an
  endpoint without an identity mapping takes tasks from its owner's identities only; a purged result keeps its status and says
  ``reason``; a task stays waiting-for-ep until its result; names of user endpoints; policies with domains, timeout and MFA.

Missing
-------
TLS; credentials and users of the broker, and so every isolation between its clients; lifetimes (tasks of two weeks, results of
30 minutes) unless ordered with `meddle`; high assurance in Compute; subscriptions; search, deletion, locks; Groups' mails;
rate limits unless ordered. An outage (`stop_cloud`) is a closed port: the service neither forgets nor stops taking results.
The broker keeps durable queues with persistent messages through an orderly restart, also what was delivered and not
acknowledged; killed, it loses them, as RabbitMQ would not. What the service publishes while the broker is away waits in the
service; if the broker goes in the very moment of publishing, the message is published again.
"""
