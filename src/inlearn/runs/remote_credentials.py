"""What obstore does not look up itself for S3: profiles of ~/.aws, the S3 endpoint, plain http.

Order as in AWS's own tools: keys in the environment, then the profile (AWS_PROFILE, else `default`); web identity and
container credentials are obstore's own business, and so is the machine's role where nothing else is there.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from inlearn.core.errors import EnvironmentFault, UserError, unknown

KEPT_FOR = timedelta(minutes=5)  # then the file is read again: temporary keys are renewed in it while a run goes on
ROLES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")


def s3_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments for obstore's S3 store. Raises `UserError` for a profile that is named and is not there."""
    own_keys = any(environment.get(name) for name in ("AWS_ACCESS_KEY_ID", *ROLES))
    named = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    profile = _profile(environment, named) if named or not own_keys else {}
    options: dict[str, Any] = {"config": {}, "client_options": {}}
    endpoint = (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or environment.get("AWS_ENDPOINT")
        or profile.get("endpoint_url")
    )
    if endpoint:
        options["config"]["endpoint"] = endpoint.rstrip("/")
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile.get("region")
    if region:
        options["config"]["region"] = region
    if not own_keys and "aws_access_key_id" in profile:
        options["credential_provider"] = _reader(environment, named)
    elif not own_keys and profile and any(key.startswith(("sso_", "role_", "credential_process")) for key in profile):
        options["credential_provider"] = _by_boto3(named)
    return options


def _profile(environment: Mapping[str, str], named: str | None) -> dict[str, str]:
    """The keys of a profile from both of AWS's files; empty where none was named and there is no default."""
    home = Path(environment.get("HOME") or Path.home()) / ".aws"
    found: dict[str, dict[str, str]] = {}
    for variable, name in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        path = Path(environment.get(variable) or home / name).expanduser()
        reader = configparser.RawConfigParser()
        try:
            reader.read(path)
        except (configparser.Error, OSError, UnicodeDecodeError) as error:
            raise EnvironmentFault(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
        for section in reader.sections():
            found.setdefault(section.removeprefix("profile "), {}).update(reader[section])
    if named and named not in found:
        raise unknown("AWS_PROFILE", named, found)
    return found.get(named or "default", {})


def _reader(environment: Mapping[str, str], named: str | None) -> Callable[[], dict[str, Any]]:
    environment = dict(environment)

    def credentials() -> dict[str, Any]:
        profile = _profile(environment, named)
        return {
            "access_key_id": profile["aws_access_key_id"],
            "secret_access_key": profile.get("aws_secret_access_key", ""),
            "token": profile.get("aws_session_token"),
            "expires_at": datetime.now(UTC) + KEPT_FOR,
        }

    return credentials


def _by_boto3(named: str | None) -> Any:
    """Profiles that sign in, assume a role or ask a process are boto3's to resolve."""
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise UserError(
            f"AWS_PROFILE = {named or 'default'}: a profile without keys of its own needs boto3: pip install boto3"
        ) from None
    return Boto3CredentialProvider(boto3.Session(profile_name=named))
