"""Side-by-side measurements of Isthmus and Mosquitto; see README.md in this folder."""
