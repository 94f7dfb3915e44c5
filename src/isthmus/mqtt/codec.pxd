import cython


cdef class Decoder:
    cdef public bint _auth
    cdef public object _first
    cdef public tuple _kinds
    cdef public Py_ssize_t _limit
    cdef public Py_ssize_t _login_limit
    cdef public Py_ssize_t _max_payload
    cdef public int _max_qos
    cdef public Py_ssize_t _need
    cdef public object _partial
    cdef public object _past
    cdef public object _receiver
    cdef public bint _retain
    cdef public object _role
    cdef public Py_ssize_t _small
    cdef public bint _strict_client_id
    cdef public object aliases
    cdef public bint ended
    cdef public bint failed
    cdef public object level
    cdef public object version

    cpdef list feed(self, bytes data)

    @cython.locals(
        names=dict, known=bytes, blocks=dict, kinds=tuple, small=Py_ssize_t, v5=bint, size=Py_ssize_t,
        at=Py_ssize_t, last=Py_ssize_t, length=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t,
        stop=Py_ssize_t, max_payload=Py_ssize_t, kind=int, topic=bytes, packet_id=bytes, properties=bytes,
        raw="const unsigned char*",
    )
    cpdef _decode(self, bytes data, list events)

    @cython.locals(
        length=Py_ssize_t, shift=int, start=Py_ssize_t, byte=int, limit=Py_ssize_t
    )
    cpdef tuple _length(self, bytes data, Py_ssize_t at, Py_ssize_t size)
