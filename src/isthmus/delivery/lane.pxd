import cython

from isthmus.delivery cimport framing_c as framing
from isthmus.delivery.keeper cimport Keeper
from isthmus.delivery.queue cimport Queue, Queued
from isthmus.delivery.receipt cimport Receipt
from isthmus.metrics.traffic cimport Traffic
from isthmus.mqtt.inflight cimport Window
from isthmus.net.link cimport Link


cdef class Lane:
    cdef public Queue _ahead
    cdef public bint _attached
    cdef public Py_ssize_t _blocked_bytes
    cdef public bint _id_was_taken
    cdef public double _left_at
    cdef public int _max_qos
    cdef public Queue _queue
    cdef public object _resend
    cdef public bint _resting
    cdef public bint _retain
    cdef public double _retry_s
    cdef public object _retry_timer
    cdef public Py_ssize_t acknowledged
    cdef public object aliases
    cdef public bint blocks
    cdef public object dead
    cdef public object drops
    cdef public object echoes
    cdef public dict entries
    cdef public set freed
    cdef public bint full
    cdef public bint keeps_qos0
    cdef public object limits
    cdef public Link link
    cdef public double max_age_s
    cdef public Py_ssize_t max_body
    cdef public int max_inflight
    cdef public Py_ssize_t max_packet
    cdef public Py_ssize_t max_queued
    cdef public Py_ssize_t max_queued_bytes
    cdef public Py_ssize_t max_unsent_bytes
    cdef public object name
    cdef public Keeper outbox
    cdef public bint queues_qos2
    cdef public Py_ssize_t refused
    cdef public Py_ssize_t resent
    cdef public Py_ssize_t room
    cdef public Py_ssize_t sent
    cdef public list suppliers
    cdef public Traffic traffic
    cdef public bint v5
    cdef public bint waiting
    cdef public Window window

    @cython.locals(queue=Queue, item=Queued)
    cpdef add(self, list items)
    @cython.locals(queue=Queue, entries=dict)
    cpdef pump(self)
    @cython.locals(
        link=Link, topic=bytes, first=int, properties=bytes, payload=bytes, receipt=Receipt,
        order=Py_ssize_t, qos=int, packet_id=bytes, block=bytes, packet=bytes,
    )
    cpdef _send(self, Queued item)
    @cython.locals(packet_id=bytes)
    cdef bytes _packet_id(self, Receipt receipt)
    cpdef count(self, Py_ssize_t payload_bytes)
    @cython.locals(outbox=Keeper)
    cpdef enqueue(self, bytes topic, int first, bytes properties, bytes payload, Receipt receipt)
    cpdef too_large(
        self, bytes packet_id, bytes topic, int first, bytes properties, bytes payload,
        Receipt receipt, Py_ssize_t index,
    )
    cpdef send_blocked(self, bytes packet, Py_ssize_t payload_bytes)
    cpdef away(self, bytes topic, int first, bytes properties, bytes payload)

    @cython.locals(
        entries=dict, last=Receipt, receipt=Receipt, count=Py_ssize_t, packet_id=bytes,
        entry=tuple, packet=bytes,
    )
    cpdef acked(self, list packet_ids)
