"""The tests, a folder for each room; what several need from outside is in `conftest.py`."""
