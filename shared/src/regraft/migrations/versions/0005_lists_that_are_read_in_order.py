"""What is read in order and in part, whatever its length: the stages that wait, the trainings that have ended."""

from alembic import op
from sqlalchemy import text

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

READY = text("status = 'ready'")
TRAINED = text("name = 'train' AND status = 'succeeded'")


def upgrade() -> None:
    # A page of `GET /queue` sorted all that waits, and a plan looked at every job to find the few that had ended.
    op.create_index("stages_waiting", "stages", ["project_id", "available_at", "id"], postgresql_where=READY)
    op.create_index("stages_trained", "stages", ["finished_at"], postgresql_where=TRAINED)


def downgrade() -> None:
    op.drop_index("stages_trained", table_name="stages")
    op.drop_index("stages_waiting", table_name="stages")
