#!/bin/sh
# Kills a silo process KILLS times (50) at random moments while six clients read, starts it anew on the same sessions each time, and compares every transcript with an undisturbed one.
# Prints kills, sessions, tokens delivered, sessions lost, wrong tokens, turns resumed; fails when a token is lost, wrong or told twice.
set -e
cd "$(dirname "$0")/../.."
dotnet build tests/Silo.Tests -v quiet --nologo >&2
KILLS="${KILLS:-50}" exec artifacts/bin/Silo.Tests/debug/FlashOrleans.Silo.Tests -class FlashOrleans.Silo.Tests.KillTests -showLiveOutput
