r"""All decisions of jobrunner, as synchronous state machines without input or output.

The law of this package: no code here uses a socket, a thread, a clock or a source of randomness of its own, and no code
here unpickles anything. Time is an argument (`now`, in seconds of a monotonic clock), chance is a `random.Random`, and
everything that happens is an event. A core handles one event in one step that nothing can interrupt, and returns
effects, which tell its driver what to send, start, stop or report. Therefore the code that runs in production also runs
in a deterministic simulation, in which every message may be lost, duplicated, delayed or reordered, and every process
may die.

    client            coordinator              worker                slots
    ClientCore  <-->  CoordinatorCore   <-->   WorkerCore   <-->     processes
        \__________ Link ________/  \__________ Link _______/

Start reading with these modules: `wire/messages` has the messages, `effects` the events and effects of a core,
`coordinator/task` the life of a task, and `coordinator/core` the turn of the coordinator. These are the packages and
modules:

    wire               messages, the limits of their fields, and their form as bytes: `messages` declares each message
                       once, `codec` and `checks` are derived from that; `batches` cuts gathered entries into messages
    client             the submitting side, which keeps calls until their outcomes have arrived
    coordinator        the middle, which has the tasks, the clients and the workers
    worker             the running side: a queue, the slots, and the outcomes that are kept until they are acknowledged

    turn               one turn of a core, which consists of its events and a Tick
    link, session      the numbered stream of messages; the greeting, silence and loss of a peer, and the next greeting
    retry              the consequence of the end of an attempt
    bundles, chunks    short calls, and elements of a `map`, that travel as one task
    known_functions    the functions that the other end of a connection knows, so that each travels once
    journal_records    the records with which a new coordinator continues after the last one has died
    tuning, estimates  the amount of work that waits close to where it runs; the expected durations of calls
    deadlines          the earliest of several deadlines

The coordinator consists of these parts:

    core               the handlers of events and messages, and the order of a turn
    sessions           the connected peers; `peers`: their records; `offences`, `rejections`: unacceptable messages
    admission          the acceptance of calls and functions; `accounts`: the quotas of owners
    submission         the arrival of tasks; `attempts`: their binding, run and end; `endings`: the receivers of ends
    scheduler          the parts that handle tasks, and their common decisions: cancelling, departures, delays
    task_table, roster the tasks; the peers and slots, and the peers to look at in this turn
    function_table     the functions and their users; `piece_index`: the parts of bundles and chunks
    dispatcher         the queue and the destinations of tasks; `placement`, `reservations`, `resources`: pure decisions
    orphans            the tasks that a worker has and that no client has named since the coordinator started
    dependencies       the tasks that depend on results of others; `finished_tasks`: the ends of tasks
    missing_modules    the modules that workers cannot import; `python_versions`: the versions that functions require
    deadlocks          the calls that need resources which only the tasks that wait for them hold
    division           the division of running chunks
    journal_gate       the entries that must be in the journal before messages about them leave
    outboxes           the messages to each peer at the end of a turn; `outgoing`: the effects of an event
    reports            the answers to operators and their commands; `questions`: the queries that wait for an answer

The worker consists of these parts:

    core               the handlers of events and messages, and the order of a turn
    local_tasks        the tasks of the worker; `local_queue`: the tasks among them that are in no slot
    slot_table         the slots; `slot_starts`: the times of their starts; `slots`: the state and capacity of one slot
    feeding            the way of tasks into slots; `recalling`: their way back
    replacing          the slots that make way for others; `dismissal`: the choice among idle slots, pure
    slot_events        the reports of slots; `splitting`: the bundles and chunks that end while they run
    stops              the tasks that have a time limit or are being stopped; `stopping`: the steps of a stop
    function_store     the functions that are kept for slots
    outcomes           the ends of attempts, pure; `unacknowledged`: outcomes that the coordinator may not have
    announcements      the reports about running and waiting tasks; `announced_capacity`: the reports about slots
    leaving            the drain and the end of the worker

`client/core` lists the parts of the client.

This is the life of a task; `task.TRANSITIONS` has the same moves as data, and is the only place that decides them:

    submitted
        |
        v       to a worker       takes a while
      queued ---------------> assigned ---------> running
      ^    ^                   |    |             |    |
      |    |   lost, crashed,  |    |             |    |  cancel(running=True)
      |    +-- given back -----+----|-------------+    +----------> cancelling
      |                             |             |                     |
      |  its wait is over           | raised, and may be retried        | the stop is confirmed,
    waiting <-----------------------+-------------+                     | or it ended before
                                    |             |                     |
                                    v             v                     v
                              succeeded | failed | cancelled   (one of them, once)

A queued or waiting task is cancelled at once. An assigned task may have started, which only its worker knows. A
cancelling task returns to its earlier state if nobody wants it to be cancelled any more.

Words:

    client       a program that submits tasks and waits for their outcomes
    coordinator  the process that routes tasks and outcomes, and never runs user code
    owner        the key with which a task was submitted; a slot runs only tasks of one owner
    worker       a daemon on a host, which provides slots
    slot         a process of a worker, which runs one task at a time
    task         one submitted call, the elements of a chunk of `map`, or a bundle
    divide       to have a slot give back the elements of a chunk that have not begun
    bundle       short calls of one function that were submitted one after the other
    attempt      one execution of a task, numbered from 1; a late message about an earlier attempt has no effect
    payload      pickled bytes, which are opaque to all code in this package
    outcome      the end of an attempt, which its worker keeps until it is acknowledged
    assign       to give a task to a worker
    acknowledge  to report that a message has arrived; the link does this for all messages
    session      the time from a greeting (hello) to the loss of one of the two peers, with one link
    heartbeat    a message that shows that its sender is alive, sent if there is no other message
    lost         silent for too long or unreachable, so that the worker's tasks run elsewhere
    requeue      to put a task back to the head of the queue, because its worker has ended and the task has not
    fence        to have a worker stop an attempt for which nobody waits any more
    orphaned     held by a worker, although no client has named the task since the coordinator started
    drain        to accept nothing new, finish the running tasks, give back the others, and leave
    turn         the handling of everything that has arrived, and a Tick, at which gathered messages are sent
    window       the maximum number of unfinished tasks, and of their bytes, that a client may have at the coordinator
"""
