"""The data scripts of the Cerebras Model Zoo as drop-in commands: same flags, same arrays, defects mended.

For those who follow the documented steps today. Whoever starts afresh uses `regraft prepare`, which keeps the end of
every story and loses no token; these commands keep the original's losses, because equal arrays are their purpose.
"""
