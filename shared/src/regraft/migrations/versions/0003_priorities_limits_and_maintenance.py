"""Priorities, admission, overrides of attempts, maintenance; indices that a large queue needs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

READY = sa.text("status = 'ready'")
RUNNING = sa.text("status = 'running'")
WAITING = sa.text("status = 'queued' AND admitted_at IS NULL")
UNFINISHED = sa.text("status NOT IN ('succeeded', 'failed', 'cancelled')")
BUSY_TABLES = ("stages", "outbox", "workers")


def upgrade() -> None:
    for table in ("jobs", "stages", "outbox"):
        op.add_column(table, sa.Column("priority", sa.SmallInteger(), server_default=sa.text("2"), nullable=False))
    op.add_column("jobs", sa.Column("admitted_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE jobs SET admitted_at = created_at")  # what was accepted before there were limits goes on
    override = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())
    op.add_column("stages", sa.Column("override", override, nullable=True))
    op.create_table(
        "maintenance",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("draining", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("id = 1", name="maintenance_is_one_row"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "project_limits",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("max_unfinished", sa.Integer(), nullable=True),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("project_id"),
    )
    op.drop_index("stages_by_status", table_name="stages")
    op.create_index("stages_ready", "stages", ["queue", "priority", "available_at"], postgresql_where=READY)
    op.create_index("stages_announced", "stages", ["announced_at"], postgresql_where=READY)
    op.create_index("stages_running", "stages", ["id"], postgresql_where=RUNNING)
    op.create_index("jobs_waiting", "jobs", ["project_id", "priority", "seq"], postgresql_where=WAITING)
    op.create_index("jobs_unfinished", "jobs", ["project_id", "status"], postgresql_where=UNFINISHED)
    op.create_index("outbox_order", "outbox", ["priority", "id"])
    op.create_index("outbox_by_stage", "outbox", ["stage_id"])
    # Rows of these are rewritten all the time: room on the page for it, and a vacuum that does not wait for a fifth.
    for table in BUSY_TABLES:
        op.execute(
            f"ALTER TABLE {table} SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, "
            "autovacuum_vacuum_threshold = 1000)"
        )


def downgrade() -> None:
    for table in BUSY_TABLES:
        op.execute(
            f"ALTER TABLE {table} RESET (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)"
        )
    op.drop_index("outbox_by_stage", table_name="outbox")
    op.drop_index("outbox_order", table_name="outbox")
    op.drop_index("jobs_unfinished", table_name="jobs")
    op.drop_index("jobs_waiting", table_name="jobs")
    op.drop_index("stages_running", table_name="stages")
    op.drop_index("stages_announced", table_name="stages")
    op.drop_index("stages_ready", table_name="stages")
    op.create_index("stages_by_status", "stages", ["status", "lease_until"])
    op.drop_table("project_limits")
    op.drop_table("maintenance")
    op.drop_column("stages", "override")
    op.drop_column("jobs", "admitted_at")
    for table in ("outbox", "stages", "jobs"):
        op.drop_column(table, "priority")
