"""Every decision of jobrunner, as synchronous state machines without input or output.

The law: nothing in this package knows a socket, a thread, a clock or a source of randomness of its own, and nothing in
it unpickles. Time comes in as an argument (`now`, seconds of a monotonic clock), chance as a `random.Random`, and what
happens as an event. A core handles one event in one step that nothing can interrupt, and returns effects: what its
driver is to send, start, stop or tell. So the very code that runs in production runs under a deterministic simulation,
where every message may be lost, doubled, delayed or reordered and every process may die.

    client            coordinator              worker                slots
    ClientCore  <-->  CoordinatorCore   <-->   WorkerCore   <-->     processes
        \\__________ Link ________/  \\__________ Link _______/

Where to start reading: `messages` (what is said), `effects` (what a core hears and asks for), `task` (the life of a
task), then `scheduler` (the coordinator's decisions). Beside them:

    checks             what a field may hold: the limits of everything that comes over a wire
    codec              a message to frames and back; whatever is off is a ProtocolError
    codec_functions    what packs, unpacks and checks a message, derived from its declaration in `messages`
    batches            what has gathered, cut into messages within these limits
    link               a numbered stream: each message arrives once and in order, or the session ends
    session            the opening side: greet, stay in touch, notice the loss, greet again
    coordinator_core   sessions around one Scheduler; one message per peer, kind and turn
    placement, retry   which task goes where; what follows the end of an attempt; both pure
    resources          amounts that add up exactly; reservations: who keeps them free for those who wait for long
    details            what of an outcome's detail is passed on
    peers              the coordinator's records of its peers, and when they are lost
    accounts           whose tasks they are, and how much one owner may have here
    known_functions    what the other end of a connection knows; each function travels once
    function_table     the coordinator's functions, by the hash of their bytes
    dependencies       tasks that wait for others' results, and clients that ask for them
    results            how tasks ended, as long as there is room or somebody wants it kept
    rejections         what could not be taken, told to the log without flooding it
    journal            what a coordinator keeps in case it dies: the records, not the file
    reports            what operators are told, and may command
    client_core        what was submitted is kept until its outcome has arrived
    deadlocks          calls that need what those hold that wait for them: found, and refused
    chunks, division   chunks of `map` that are divided while they run: what that is, and when it is done
    bundles            short calls that travel as one task; bundle_tracker splits them again
    worker             a queue, the slots that it feeds, outcomes kept until acknowledged; its core names the parts

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
