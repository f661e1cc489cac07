"""What a test of the suite is written with: base class, guest, case, background traffic, checks."""
