"""Lines of one batch for several models."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Lines of before are planned for their batch's model, as they were."""
    op.add_column("lines", sa.Column("model", sa.Text(), nullable=True))
