r"""Every decision of jobrunner, as synchronous state machines without input or output.

The law: nothing in this package knows a socket, a thread, a clock or a source of randomness of its own, and nothing in
it unpickles. Time comes in as an argument (`now`, seconds of a monotonic clock), chance as a `random.Random`, and what
happens as an event. A core handles one event in one step that nothing can interrupt, and returns effects: what its
driver is to send, start, stop or tell. So the very code that runs in production runs under a deterministic simulation,
where every message may be lost, doubled, delayed or reordered and every process may die.

    client            coordinator              worker                slots
    ClientCore  <-->  CoordinatorCore   <-->   WorkerCore   <-->     processes
        \__________ Link ________/  \__________ Link _______/

Where to start reading: `wire/messages` (what is said), `effects` (what a core hears and asks for), `coordinator/task`
(the life of a task), then `coordinator/core` (the turn of the coordinator). The packages:

    wire               messages, what their fields may hold, and how they become bytes: `messages` declares each once,
                       `codec` and `checks` are derived from it; `batches` cuts what has gathered into messages
    client             the submitting side: calls are kept until their outcomes have arrived
    coordinator        the middle: tasks, clients and workers
    worker             the running side: a queue, the slots that it feeds, outcomes kept until they are acknowledged

    turn               one turn of a core: its events, then a Tick
    link, session      a numbered stream of messages; greeting, silence, loss, and greeting again
    retry              what follows the end of an attempt
    bundles, chunks    short calls that travel as one task; elements of `map` that do
    known_functions    what the other end of a connection knows: each function travels once
    journal_records    what a coordinator keeps in case it dies
    tuning, estimates  how much work waits close to where it runs; how long calls may be expected to take

The coordinator by what each part owns:

    core               the events, the table of messages, the order of a turn
    sessions           who is connected; `offences`: who sends what cannot be taken; `peers`: the records of both
    admission          which calls and functions are taken; `accounts`: how much an owner may have here
    submission         how tasks come in; `attempts`: how they are bound, run and end; `endings`: who is told of the end
    scheduler          these together, and what they have in common: cancelling, departures, waiting for a time
    task_table, roster the tasks; the peers, slots, and who is to be looked at in this turn
    dispatcher         the queue and where tasks go; `placement`, `reservations`, `resources`: the decisions, pure
    orphans            tasks that a worker has and no client has named since the coordinator started
    dependencies       tasks that wait for results of others; `finished_tasks`: how tasks ended
    missing_modules    what workers cannot import; `python_versions`: functions sent by value
    deadlocks          calls that need what those hold that wait for them
    division           chunks that are divided while they run
    journal_gate       what must be written before it is said
    outboxes           what each peer is told at the end of a turn; `outgoing`: the effects of an event
    reports            what operators are told, and may command

The worker by what each part owns:

    core               the events, the table of messages, the order of a turn
    local_tasks        the tasks that are here; `local_queue`: those of them that are in no slot
    slot_table         the slots and their starts (`slot_starts`); `slots`: one of them, and what it can be given
    feeding            tasks go into slots; `recalling`: and come back from them
    replacing          which slots make way; `dismissal`: the idle ones among them, pure
    slot_events        what slots tell of their tasks; `splitting`: bundles and chunks that end while they run
    stops              the tasks that have a limit of time or are being stopped; `stopping`: the steps of that
    function_store     functions that are kept for slots
    outcomes           how attempts end, pure; `unacknowledged`: what is kept until the coordinator has it
    announcements      what is told of tasks that run or wait; `announced_capacity`: of the slots
    leaving            whether the worker drains, and whether it has stopped

The life of a task; `task.TRANSITIONS` is the same as data, and the only place that decides:

    submitted
        |
        v       to a worker       takes a while
      queued ---------------> assigned ---------> running
      ^    ^                   |    |             |    |
      |    |   lost, crashed,  |    |             |    |  cancel(running=True)
      |    +-- given back -----+----|-------------+    +----------> cancelling
      |                             |             |                     |
      |  its time has come          | raised, and may be retried        | the stop is confirmed,
    waiting <-----------------------+-------------+                     | or it ended before
                                    |             |                     |
                                    v             v                     v
                              succeeded | failed | cancelled   (one of them, once)

A queued or waiting task is cancelled without further ado. An assigned task may have started: only its worker knows.
A cancelling one goes back where it came from if nobody wants it cancelled any more.

Words:

    client       submits tasks, and waits for their outcomes
    coordinator  routes; never runs user code
    owner        whose key a task was submitted with; no slot runs tasks of two
    worker       a daemon on a host, which provides slots
    slot         one process of a worker; runs one task at a time
    task         one submitted call, the elements of a chunk of `map`, or a bundle
    divide       have a slot give back the elements of a chunk that have not begun
    bundle       short calls of one function, submitted one after the other
    attempt      one execution of a task, numbered from 1; a late word of an old attempt changes nothing
    payload      pickled bytes, opaque to everything here
    outcome      how an attempt ended; its worker keeps it until it is acknowledged
    assign       give a task to a worker
    acknowledge  say that a message has arrived; the link does it, and nothing above needs its own
    session      the time between a greeting (hello) and the loss of one of the peers, with one link
    heartbeat    a sign of life where there is nothing else to say
    lost         silent for too long, or unreachable: its tasks run elsewhere
    requeue      back to the head of the queue, because the worker and not the task came to an end
    fence        have a worker stop an attempt that nobody waits for any more
    orphaned    with a worker, though no client has named it since the coordinator started
    drain        take nothing new, finish what runs, hand back the rest, leave
    turn         all that has arrived, then a Tick: what gathered during it leaves in batches
    window       how many unfinished tasks, or bytes, a client may have at the coordinator
"""
