"""What tests share. This folder is importable (pytest puts it on the path), so `from fakes import ...` works."""
