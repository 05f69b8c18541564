"""moto's S3 behind a door; its tests are in `tests/storages/test_moto.py`.

moto implements the objects, their ETags (also of multipart uploads), ranges, If-Match, and errors
in XML. As of 5.2, moto does not check the signature, expiry and method of a presigned URL, and
accepts a second authentication mechanism; `set_initial_no_auth_action_count` only checks the
header. So a door before moto, in the same server, refuses what S3 refuses, with the same messages.
It computes the signature of the received request with botocore, the signing part of boto3.
"""

import time
from datetime import UTC, datetime
from http.client import responses
from urllib.parse import parse_qs, urlsplit

import boto3
from attrs import define, field
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

REGION = "eu-west-1"
CREDENTIALS = Credentials("AKIAIOSFODNN7EXAMPLE", "a secret", "a/session+token==")
ONE_ONLY = (
    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query "
    "string parameter or the Authorization header should be specified"
)
NO_MATCH = (
    "The request signature we calculated does not match the signature you provided. Check your "
    "key and signing method."
)


@define
class Door:
    """Refuses presigned requests that S3 would refuse; other requests are boto3's own.

    Attributes:
        ahead: Seconds by which this clock is ahead of the clock of the signer.
        before_get: Called before each presigned GET is checked.
        redirect: Path -> URL to which a GET is redirected, as S3 does with a new bucket.
        gets: Status and header fields (in lower case) of each presigned GET.
    """

    app: object
    ahead: float = 0.0
    before_get: object = lambda: None
    redirect: dict = field(factory=dict)
    gets: list = field(factory=list)

    def __call__(self, environ, start_response):
        target = urlsplit(environ["RAW_URI"])
        query = parse_qs(target.query)
        if "X-Amz-Signature" not in query:
            return self.app(environ, start_response)
        self.before_get()
        fields = {name[5:].lower(): environ[name] for name in environ if name[:5] == "HTTP_"}

        def start(status, *rest):
            self.gets.append((int(status[:3]), fields))
            return start_response(status, *rest)

        status, code, message = self.judge(environ, target, query, fields)
        if status == 200:
            return self.app(environ, start)
        headers = [("Content-Type", "application/xml")]
        if status == 307:
            headers.append(("Location", self.redirect[target.path]))
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        headers.append(("Content-Length", str(len(body))))
        start(f"{status} {responses[status]}", headers)
        return [body]

    def judge(self, environ, target, query, fields):
        if "authorization" in fields:
            return 400, "InvalidArgument", ONE_ONLY
        if target.path in self.redirect:
            return 307, "TemporaryRedirect", "Please re-send this request to the endpoint"
        (signed,) = query["X-Amz-Date"]
        since = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if time.time() + self.ahead > since + int(query["X-Amz-Expires"][0]):
            return 403, "AccessDenied", "Request has expired"
        unsigned = environ["RAW_URI"].partition("&X-Amz-Signature=")[0]
        request = AWSRequest(
            method=environ["REQUEST_METHOD"],
            url=f"http://{fields['host']}{unsigned}",
            headers={"host": fields["host"]},
        )
        request.context["timestamp"] = signed
        auth = S3SigV4QueryAuth(CREDENTIALS, "s3", REGION)
        signature = auth.signature(
            auth.string_to_sign(request, auth.canonical_request(request)), request
        )
        if [signature] != query["X-Amz-Signature"]:
            return 403, "SignatureDoesNotMatch", NO_MATCH
        return 200, "", ""


class Quiet(WSGIRequestHandler):
    def log_request(self, *_):
        pass


def connect(url):
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=CREDENTIALS.access_key,
        aws_secret_access_key=CREDENTIALS.secret_key,
        aws_session_token=CREDENTIALS.token,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


def make_door_and_server():
    """Return a `Door` before a moto server, and the server, which does not run yet."""
    door = Door(DomainDispatcherApplication(create_backend_app))
    return door, make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
