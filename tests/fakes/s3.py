"""A real server of moto on loopback that answers as Amazon S3 does, with its objects in memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session

SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
"""Until the test's process closes its end, or is no more."""
NOWHERE = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""No credentials of this machine's user are found, nor those of the machine."""
KEYS = {"AWS_ACCESS_KEY_ID": "of-a-test", "AWS_SECRET_ACCESS_KEY": "of-a-test"}


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        url: Where it listens.
        bucket: The bucket it has.
        pid: Of its process.
        client: Boto's own.
    """

    url: str
    bucket: str
    pid: int
    client: Any

    @property
    def environment(self) -> dict[str, str]:
        """What a job needs to find it."""
        return {"AWS_ENDPOINT_URL": self.url} | NOWHERE | KEYS

    def put(self, name: str, content: bytes, **options: str) -> str:
        """Write an object, and return its ETag."""
        answer = self.client.put_object(Bucket=self.bucket, Key=name, Body=content, **options)
        return str(answer["ETag"]).strip('"')

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a local folder below a prefix of the bucket, and return its URI."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{prefix}/{file.relative_to(folder).as_posix()}", file.read_bytes())
        return f"s3://{self.bucket}/{prefix}"

    def names(self) -> list[str]:
        """Every object in the bucket, of fewer than 1,000."""
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]


@contextmanager
def s3_server(bucket: str = "lab") -> Iterator[S3Server]:
    """Start a server with one bucket, and end it."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            credentials = {"aws_access_key_id": "of-a-test", "aws_secret_access_key": "of-a-test"}
            session = botocore.session.get_session()
            client = session.create_client("s3", "us-east-1", endpoint_url=url, **credentials)
            client.create_bucket(Bucket=bucket)
            yield S3Server(url, bucket, process.pid, client)
            client.close()
        finally:
            process.kill()
