# SPDX-License-Identifier: GPL-2.0-or-later
"""Result files of build/results as one HTML page with charts; scripts/report is its front."""
