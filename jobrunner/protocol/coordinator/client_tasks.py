"""The end of all tasks of one client together, and the tasks that it does not name again."""

from __future__ import annotations

from jobrunner.protocol.coordinator.accounts import Accounts
from jobrunner.protocol.coordinator.cancellation import Cancellation
from jobrunner.protocol.coordinator.dependencies import Dependencies
from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.coordinator.orphans import Orphans
from jobrunner.protocol.coordinator.peers import ClientSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.link import Link
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId


class ClientTasks:
    """Ends the tasks of clients that will not come back, and drops the tasks that a client does not name again."""

    def __init__(
        self,
        *,
        roster: Roster,
        accounts: Accounts,
        functions: FunctionTable,
        dispatcher: Dispatcher,
        orphans: Orphans,
        endings: Endings,
        dependencies: Dependencies,
        cancellation: Cancellation,
    ) -> None:
        self._roster = roster
        self._accounts = accounts
        self._functions = functions
        self._dispatcher = dispatcher
        self._orphans = orphans
        self._endings = endings
        self._dependencies = dependencies
        self._cancellation = cancellation

    def gone(self, client: ClientSession, now: float) -> None:
        """Cancel all tasks of a client that will not come back, except detached ones."""
        for record in [record for record in client.tasks.values() if not record.body.options.detach]:
            record.record_event("its client has gone, and it was not detached")
            self._cancellation.cancel(record.id, True, now)
        for key in client.take_function_refs():
            self._functions.drop_ref(key)
        self._endings.forget_untaken_outcomes(client)
        client.outcomes.clear()
        client.renew_link(Link("", now, 0.0))  # together with the messages that it has not received
        self._dependencies.watches_no_more(client)
        self._dispatcher.queue.resume(client.id)
        if self._roster.remove_client(client):
            self._accounts.close(client.account)

    def resubmission_complete(self, client_id: ClientId) -> None:
        """Drop orphaned tasks of a client that has named all tasks that it waits for, because nobody wants them."""
        client = self._roster.clients.get(client_id)
        if client is not None:
            client.complete_resubmission()
            if client.cancels:
                self._roster.flush_later(client)
            wanted = {outcome.id for outcome in client.outcomes}
            for message in client.link.unacked():
                if type(message) is m.Outcomes:
                    wanted.update(outcome.id for outcome in message.outcomes)
            for task_id in client.done.keys() - wanted:
                if not self._orphans.named_later(task_id):
                    taken = client.take_done(task_id)
                    if taken is not None:
                        taken.drop_payload()
        for task_id in self._orphans.of_client(client_id):
            if not self._orphans.named_later(task_id):
                self._orphans.drop(task_id)
