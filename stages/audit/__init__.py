"""The promise at work: audits of drawn frames, alarms, and certificates of periods."""
