"""What Google Cloud Storage says when it refuses a request, with the advice that fits its own reason."""

import re

from lib.errors import one_line

LONGEST = 400
ROLES = (
    "the account needs the role Storage Object Viewer on a source, Storage Object User on an output; "
    "with `gcloud auth application-default login` it is your own, with GOOGLE_APPLICATION_CREDENTIALS that of the key"
)
ADVICE = {
    r"billing|accountDisabled|delinquent": "switch billing on for the project that owns the bucket: "
    "https://console.cloud.google.com/billing/projects",
    r"has not been used in project|SERVICE_DISABLED|accessNotConfigured|it is disabled": "enable the Cloud Storage "
    "JSON API in that project, and wait some minutes: "
    "https://console.cloud.google.com/apis/library/storage-api.googleapis.com",
    r"requester pays|no user project|UserProjectMissing": "whoever reads pays for this bucket: set GCS_USER_PROJECT "
    "to the project that is to be billed",
    r"serviceusage\.services\.use|USER_PROJECT_DENIED|user project": "the account needs the role Service Usage "
    "Consumer in the project that GCS_USER_PROJECT names",
    r"retention policy|object hold|temporary hold": "the bucket keeps its objects for some time: choose another output",
    r"organization's policy|vpcServiceControls": "a rule of your organisation forbids it from here: ask who runs it",
    r"scope": "the login lacks the scope of Cloud Storage: on a machine of Google give it the scope cloud-platform",
}
"""By what Google's words hold, the first that fits."""


def explained(status: int, words: str) -> str:
    """What Google said, and what to do about it.

    Args:
        status: Of the answer.
        words: Google's own reason; empty if the answer had none.
    """
    told = one_line(words)[:LONGEST].rstrip(".")
    advice = next((text for pattern, text in ADVICE.items() if re.search(pattern, words, re.IGNORECASE)), ROLES)
    return f"HTTP {status}: {told}; {advice}" if told else f"HTTP {status}: {advice}"


def concerns_payment(words: str) -> bool:
    """Whether Google refused since nobody was named who pays."""
    return re.search("requester pays|no user project|UserProjectMissing", words, re.IGNORECASE) is not None
