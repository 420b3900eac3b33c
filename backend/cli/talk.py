"""A conversation through this machine's microphone: `python app.py talk`."""

import argparse
import os
import sys

from backend.cli import EXIT_ERROR
from client.address import ServerAddress
from client.live import LiveOptions
from client.messages import ClientError, Language
from client.talk import list_devices
from client.talk import talk as talk_with
from client.words import Words


def talk(parsed: argparse.Namespace) -> int:
    """Talk with a server through this machine's microphone."""
    language = Language(parsed.language or Language.of_environment(os.environ))
    try:
        if parsed.list_devices:
            list_devices(Words(language))
            return 0
        address = ServerAddress.parse(parsed.server, parsed.access_key)
        options = LiveOptions(
            has_microphone=not parsed.text_only,
            has_loudspeaker=not parsed.text_only,
            input_device=parsed.input_device,
            output_device=parsed.output_device,
            speaks_replies=parsed.speak,
            voice=parsed.voice,
            decision_bias=parsed.decision_bias,
            recording_title=parsed.record,
        )
        talk_with(address, options, Words(language), starts_server=parsed.start_server)
    except ClientError as error:
        print(f"app.py: {error.in_language(language)}", file=sys.stderr)
        return EXIT_ERROR
    return 0
