"""What is heard in a stretch of sound: log-mel, which windows are worth a look, the network."""
