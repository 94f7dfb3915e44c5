# What framing.py has, for compiled files: see there.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy


cdef inline char *put(char *at, bytes part) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(part)
    memcpy(at, PyBytes_AS_STRING(part), size)
    return at + size


cdef inline bytes frame(int first, bytes topic, bytes packet_id, bytes block, bytes payload):
    cdef Py_ssize_t size = (
        PyBytes_GET_SIZE(topic) + PyBytes_GET_SIZE(packet_id)
        + PyBytes_GET_SIZE(block) + PyBytes_GET_SIZE(payload)
    )
    cdef Py_ssize_t rest = size
    cdef Py_ssize_t head = 2
    while rest > 127:
        rest >>= 7
        head += 1
    if head > 5:
        raise OverflowError("larger than any packet of MQTT")
    cdef bytes packet = PyBytes_FromStringAndSize(NULL, head + size)
    cdef char *at = PyBytes_AS_STRING(packet)
    at[0] = <char> first
    at += 1
    rest = size
    while rest > 127:
        at[0] = <char> (rest & 127 | 128)
        at += 1
        rest >>= 7
    at[0] = <char> rest
    at = put(at + 1, topic)
    at = put(at, packet_id)
    at = put(at, block)
    put(at, payload)
    return packet


cdef inline bytes flat(int first, bytes topic, bytes block, bytes payload):
    cdef bytes found = PyBytes_FromStringAndSize(
        NULL,
        1 + PyBytes_GET_SIZE(topic) + PyBytes_GET_SIZE(block) + PyBytes_GET_SIZE(payload),
    )
    cdef char *at = PyBytes_AS_STRING(found)
    at[0] = <char> first
    at = put(at + 1, topic)
    at = put(at, block)
    put(at, payload)
    return found
