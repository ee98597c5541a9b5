"""Rows that are written again and again: room for them on their page, and the request out of the way."""

from alembic import op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

READY = text("status = 'ready'")


def upgrade() -> None:
    # A job's row is rewritten with each event, and the request, most of it, never changes: with the lower target it is
    # stored beside the table, and a new version of the row only points to it. Rows that are there stay as they are.
    op.execute(
        "ALTER TABLE jobs SET (fillfactor = 70, toast_tuple_target = 256, autovacuum_vacuum_scale_factor = 0.02, "
        "autovacuum_vacuum_threshold = 1000)"
    )
    op.execute("ALTER TABLE attempts SET (fillfactor = 80)")
    # The sweep asks each queue for what was announced long ago: without the queue it read all that waits anywhere.
    # `stages_announced`, which the version before uses, stays beside it until two minors later.
    op.create_index("stages_announced_by_queue", "stages", ["queue", "announced_at"], postgresql_where=READY)


def downgrade() -> None:
    op.drop_index("stages_announced_by_queue", table_name="stages")
    op.execute("ALTER TABLE attempts RESET (fillfactor)")
    op.execute(
        "ALTER TABLE jobs RESET (fillfactor, toast_tuple_target, autovacuum_vacuum_scale_factor, "
        "autovacuum_vacuum_threshold)"
    )
