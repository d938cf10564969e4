"""Publish the number of people in view to MQTT whenever it changes.

python examples/count_people_to_mqtt.py rtsp://camera.example/stream mqtt.example
"""

import argparse
import os

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

import framegate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("source", help="a camera or a video file")
parser.add_argument("broker", help="host of the MQTT broker")
parser.add_argument("--port", type=int, default=1883)
parser.add_argument("--user", help="its password is in the variable MQTT_PASSWORD")
parser.add_argument("--label", default="person", help="the objects to count")
options = parser.parse_args()

client = mqtt.Client(CallbackAPIVersion.VERSION2)
if options.user is not None:
    client.username_pw_set(options.user, os.environ["MQTT_PASSWORD"])
client.connect(options.broker, options.port)
client.loop_start()

last_count = None
with framegate.run({"entrance": options.source}) as results:
    for result in results:
        count = sum(item.label == options.label for item in result.objects)
        if count != last_count:
            topic = f"cameras/{result.source}/{options.label}"
            message = client.publish(topic, count, qos=1, retain=True)
            message.wait_for_publish(timeout=10)
            last_count = count

client.disconnect()
client.loop_stop()
