"""What clouds say when they refuse a request, with the advice that fits their own reason."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lib.errors import one_line

LONGEST = 400


@dataclass(frozen=True)
class Refusals:
    """Of one cloud.

    Attributes:
        advice: By what its words hold, the first that fits.
        otherwise: Where none does.
    """

    advice: Mapping[str, str]
    otherwise: str

    def explained(self, words: str, status: int | None = None) -> str:
        """What the cloud said, and what to do about it.

        Args:
            words: Its own reason; empty if the answer had none.
            status: Of the answer; None if there was no answer.
        """
        told = one_line(words)[:LONGEST].rstrip(".")
        fact = ": ".join(part for part in (f"HTTP {status}" if status else "", told) if part)
        fits = (text for pattern, text in self.advice.items() if re.search(pattern, words, re.IGNORECASE))
        advice = next(fits, self.otherwise)
        return f"{fact}; {advice}" if told else f"{fact}: {advice}"


GCS = Refusals(
    {
        r"billing|accountDisabled|delinquent": "switch billing on for the project that owns the bucket: "
        "https://console.cloud.google.com/billing/projects",
        r"has not been used in project|SERVICE_DISABLED|accessNotConfigured|it is disabled": "enable the Cloud Storage "
        "JSON API in that project, and wait some minutes: "
        "https://console.cloud.google.com/apis/library/storage-api.googleapis.com",
        r"requester pays|no user project|UserProjectMissing": "whoever reads pays for this bucket: set "
        "GCS_USER_PROJECT to the project that is to be billed",
        r"serviceusage\.services\.use|USER_PROJECT_DENIED|user project": "the account needs the role Service Usage "
        "Consumer in the project that GCS_USER_PROJECT names",
        r"retention policy|object hold|temporary hold": "the bucket keeps its objects for some time: choose another "
        "output",
        r"organization's policy|vpcServiceControls": "a rule of your organisation forbids it from here: ask who runs "
        "it",
        r"scope": "the login lacks the scope of Cloud Storage: on a machine of Google give it the scope cloud-platform",
    },
    "the account needs the role Storage Object Viewer on a source, Storage Object User on an output; "
    "with `gcloud auth application-default login` it is your own, with GOOGLE_APPLICATION_CREDENTIALS that of the key",
)
S3 = Refusals(
    {
        r"NoCredentials|PartialCredentials": "log in with `aws configure` or `aws sso login`, or set AWS_ACCESS_KEY_ID "
        "and AWS_SECRET_ACCESS_KEY; a public bucket is read without with AWS_NO_SIGN_REQUEST=1",
        r"ProfileNotFound|ConfigNotFound|ConfigParse": "AWS_PROFILE names a profile in ~/.aws/config",
        r"Expired|SSOToken|TokenRefresh|TokenRetrieval|InvalidToken": "log in again (`aws sso login`), or get new keys",
        r"InvalidAccessKeyId|SignatureDoesNotMatch": "check AWS_PROFILE or the keys, and that AWS_ENDPOINT_URL names "
        "the server that they are for",
        r"TooSkewed": "set the clock of this machine right",
        r"Redirect|AuthorizationHeaderMalformed|IllegalLocationConstraint": "set AWS_DEFAULT_REGION to the region of "
        "the bucket",
        r"InvalidObjectState": "it is in an archive (Glacier): restore it first",
        r"InvalidBucketName|ParamValidation": "expected s3://bucket/prefix",
        r"NoSuchBucket": "check its name, and AWS_ENDPOINT_URL if the server is not Amazon's",
        r"kms:": "the account needs kms:Decrypt with the key of the bucket",
    },
    "the account needs s3:ListBucket on the bucket and s3:GetObject on what is in it; AWS_PROFILE chooses another "
    "account, AWS_REQUEST_PAYER=requester pays where the reader does",
)


def concerns_payment(words: str) -> bool:
    """Whether Google refused since nobody was named who pays."""
    return re.search("requester pays|no user project|UserProjectMissing", words, re.IGNORECASE) is not None
