"""``python -m deploy.buckets``: create the buckets that the settings name, where they do not exist yet."""

from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from service.settings import ServiceSettings, settings
from service.storage.s3_client import create_s3_client

_OURS_ALREADY = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


def create_buckets(settings: ServiceSettings) -> tuple[str, ...]:
    """Create the store's bucket and those of inputs; return their names.

    Raises:
        ClientError: The S3 server refuses, for instance because a bucket belongs to somebody else.
    """
    store = urlsplit(settings.storage_url)
    names = ((store.netloc,) if store.scheme == "s3" else ()) + settings.input_buckets
    client = create_s3_client(settings)
    for name in names:
        try:
            client.create_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _OURS_ALREADY:
                raise
            client.head_bucket(Bucket=name)
    return names


if __name__ == "__main__":
    for bucket in create_buckets(settings()):
        print(bucket)
