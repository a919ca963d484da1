"""Texts cut into chunks of whole lines, along their structure."""
