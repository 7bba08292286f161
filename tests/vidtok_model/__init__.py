"""Tests of vidtok_model."""
