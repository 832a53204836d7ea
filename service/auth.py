"""API keys: ``ddo_`` and 43 random characters, of which only the SHA-256 is kept."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.ids import new_id
from service.models import ApiKey, Tenant

_PREFIX_LENGTH = 12


@dataclass(frozen=True)
class Caller:
    """Who a request speaks for."""

    tenant_id: str
    key_id: str


def hash_of(key: str) -> str:
    """Return what is stored of a key. The key has 256 random bits, so that a plain hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def create_key(session: Session, *, tenant: str, name: str) -> str:
    """Create a key for the tenant of that name (and the tenant, if it is new) and return it: it is never seen again."""
    session.execute(insert(Tenant).values(id=new_id("ten"), name=tenant).on_conflict_do_nothing())
    tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == tenant)).one()
    key = f"ddo_{secrets.token_urlsafe(32)}"
    session.add(ApiKey(tenant_id=tenant_id, name=name, prefix=key[:_PREFIX_LENGTH], key_hash=hash_of(key)))
    return key


def revoke_keys(session: Session, identity: str) -> list[str]:
    """Revoke the keys with that id or prefix and return their ids; keys revoked before are left out."""
    return list(
        session.scalars(
            update(ApiKey)
            .where((ApiKey.id == identity) | (ApiKey.prefix == identity), ApiKey.revoked_at.is_(None))
            .values(revoked_at=func.clock_timestamp())
            .returning(ApiKey.id)
        )
    )


def authenticate(session: Session, key: str) -> Caller | None:
    """Return whom the key speaks for, or None. Asks the database every time, so that a revocation counts at once."""
    key_hash = hash_of(key)
    row = session.execute(
        select(ApiKey.id, ApiKey.tenant_id, ApiKey.key_hash).where(
            ApiKey.key_hash == key_hash, ApiKey.revoked_at.is_(None)
        )
    ).one_or_none()
    if row is None or not hmac.compare_digest(row.key_hash, key_hash):
        return None
    return Caller(tenant_id=row.tenant_id, key_id=row.id)
