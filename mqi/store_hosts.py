"""What this side knows of the hosts: their rows, what they hold, their GPUs. A part of `store.Store`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mqi.database import Database
from mqi.rows import HostRow, host_from


class HostRows:
    """See `store.Store`, whose base this is."""

    database: Database

    def host(self, name: str) -> HostRow | None:
        rows = self.database.read("SELECT * FROM hosts WHERE name = ?", (name,))
        return host_from(rows[0]) if rows else None

    def hosts(self) -> list[HostRow]:
        return [host_from(row) for row in self.database.read("SELECT * FROM hosts ORDER BY name")]

    def put_host(self, name: str, **columns: object) -> None:
        """Set what is known of a host."""
        with self.database.write() as connection:
            connection.execute("INSERT OR IGNORE INTO hosts (name) VALUES (?)", (name,))
            assignments = ", ".join(f"{column} = ?" for column in columns)
            connection.execute(f"UPDATE hosts SET {assignments} WHERE name = ?", (*columns.values(), name))

    def put_inventory(self, host: str, runs: Iterable[Mapping[str, Any]]) -> None:
        """Replace what this host said that it holds."""
        with self.database.write() as connection:
            connection.execute("DELETE FROM host_runs WHERE host = ?", (host,))
            connection.executemany(
                "INSERT OR REPLACE INTO host_runs VALUES (?,?,?,?)",
                [(host, str(r["run_key"]), str(r["digest"]), str(r["state"])) for r in runs],
            )

    def host_that_has(self, run_key: str) -> str | None:
        """The host that held this run when it was asked for everything, if any did.

        Of several (one was declared lost, and was none) the one that still works on it.
        """
        rows = self.database.read(
            "SELECT host FROM host_runs WHERE run_key = ? ORDER BY CASE state WHEN 'active' THEN 0 WHEN 'ended' THEN 1 "
            "WHEN 'released' THEN 2 ELSE 3 END LIMIT 1",
            (run_key,),
        )
        return str(rows[0]["host"]) if rows else None

    def put_resources(self, host: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Replace the GPU and group rows of a host."""
        with self.database.write() as connection:
            connection.execute("DELETE FROM gpu_resources WHERE host = ?", (host,))
            for row in rows:
                names = ", ".join(row)
                connection.execute(
                    f"INSERT INTO gpu_resources (host, {names}) VALUES (?{', ?' * len(row)})",
                    (host, *row.values()),
                )

    def resources_unknown(self, host: str) -> None:
        """The host is silent: what its GPUs do is not known."""
        with self.database.write() as connection:
            connection.execute("UPDATE gpu_resources SET status = 'unknown' WHERE host = ?", (host,))

    def resources(self) -> list[dict[str, Any]]:
        rows = self.database.read("SELECT * FROM gpu_resources ORDER BY host, pueue_group, gpu")
        return [dict(row) for row in rows]

    def open_jobs(self) -> dict[str, dict[str, int]]:
        """host -> group -> jobs that have not ended, of all cases on their way there or there."""
        counts: dict[str, dict[str, int]] = {}
        for row in self.database.read(
            "SELECT host, group_name, count(*) AS jobs FROM cases JOIN jobs USING (case_id) "
            "WHERE status IN ('submitting', 'queued', 'running') "
            "AND state NOT IN ('done', 'failed', 'lost', 'cancelled') GROUP BY host, group_name"
        ):
            counts.setdefault(row["host"], {})[row["group_name"]] = row["jobs"]
        return counts

    def hosts_with_inputs(self, room: str, path: str) -> frozenset[str]:
        """The hosts that still keep the inputs of another revision or fraction of this folder."""
        rows = self.database.read(
            "SELECT DISTINCT host FROM cases WHERE room = ? AND path = ? AND host <> '' AND host_serial > 0 "
            "AND purged_at IS NULL",
            (room, path),
        )
        return frozenset(str(row["host"]) for row in rows)
