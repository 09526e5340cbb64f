# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of the lab that runs as root on the (emulated) host."""
