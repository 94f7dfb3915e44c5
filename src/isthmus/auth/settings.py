"""Settings of authentication and authorisation: the `auth` key."""

from pathlib import Path

from pydantic import Field

from isthmus.config.model import SettingsModel


class AuthSettings(SettingsModel):
    """Who may connect, and who may read and write which topics."""

    allow_anonymous: bool | None = Field(
        default=None,
        description="Whether clients without a user name may connect. Not set means: only while "
        "every listener is on a loopback address and there is no password file.",
    )
    insecure_public_anonymous: bool = Field(
        default=False,
        description="Allow `allow_anonymous: true` on addresses that others can reach. "
        "Everybody on that network can then read and write.",
    )
    password_file: Path | None = Field(
        default=None,
        description="Users, in the format of `mosquitto_passwd` ($6$, $7$, argon2id).",
        examples=["users.txt"],
    )
    acl_file: Path | None = Field(
        default=None,
        description="Rights, in the format of Mosquitto's `acl_file`. "
        "Without one everybody who may connect may read and write all topics.",
        examples=["acl.txt"],
    )
