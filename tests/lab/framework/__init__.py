# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab as a library: build an emulated host, run jobs on it, keep results."""
