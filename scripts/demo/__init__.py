"""The main job, shown with the real processes: devices on providers, claims on consumers, readings that arrive.

`inventory` says which devices there are and `claims` what is asked, `site` brings up one cluster with its processes,
`observe` reads what came of it, `story` tells the steps in order, `report` judges and shows the outcome.
"""
