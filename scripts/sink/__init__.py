"""The sink: endpoints that receive readings as a consumer's would, and keep what is needed to judge the delivery.

`bodies` reads what the relay sends, `signatures` says who signed it, `record` remembers it, `server` answers HTTP
(badly, when told to).
"""
